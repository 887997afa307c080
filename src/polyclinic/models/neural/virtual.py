"""Many sites in one process, for simulations: one copy of their rows, and no gate between them.

They are one trust domain: whoever runs it holds all rows already, and nothing here stands for the
rules of a hospital. A round is over the sites whose turn it is; the others cost nothing. Networks
of linear layers are trained side by side (`stack`), the others one site after the other. Where a
round is work enough every core has a lane of sites (`lanes`); a network that draws random numbers
in training, as dropout does, has no lanes, but all of torch's threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.core.compress import HELD
from polyclinic.core.contribution import Total
from polyclinic.core.federation import Domain, Workers
from polyclinic.core.partition import Partition
from polyclinic.core.plan import Plan
from polyclinic.core.task import goes_on_from
from polyclinic.models.neural.fixed import number
from polyclinic.models.neural.inputs import Inputs, inputs_of
from polyclinic.models.neural.lanes import cores, side_by_side
from polyclinic.models.neural.network import network_of
from polyclinic.models.neural.rows import divided, question, scaling_of, spec_of
from polyclinic.models.neural.spec import NeuralSpec
from polyclinic.models.neural.stack import LANE, Stack, lanes_of, stackable, stacks, train_stack
from polyclinic.models.neural.tasks import trained
from polyclinic.models.neural.train import Question, ran_away, row_weights, train
from polyclinic.models.neural.turns import turn

Ints = NDArray[np.int64]
Memory = Mapping[str, Any]
Sums = dict[str, Any]
MANY = 8  # sites of a round; fewer are trained one by one, to the same bytes as behind gates
OUTSIDE, TRAINED, WATCHED = 0, 1, 2  # roles of rows


class Virtual(Domain):
    """Sites of one trust domain that train networks.

    Parameters
    ----------
    rows : all rows, without a key: each is a patient of its own.
    labels : (n_rows,) the site of every row.
    workers, session : of all rows, for sums that do not rest on sites; as in `Domain`.
    """

    def __init__(
        self,
        rows: Partition,
        labels: Any,
        workers: Workers,
        session: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        super().__init__(workers, session)
        self.rows = rows
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        self.names = [str(name) for name in names]
        self._place = {name: site for site, name in enumerate(self.names)}
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        self._keys = np.empty(len(codes), dtype=np.int64)
        self._known: tuple[Any, NeuralSpec] | None = None
        self._stacks: list[Stack] = []  # one of a lane
        self._inputs: tuple[Any, Inputs] | None = None
        self._keys[self._order] = np.arange(len(codes)) - self._starts[codes[self._order]]

    def total(self, plan: Plan) -> Total:
        """The total of a plan: of training over the sites whose turn it is."""
        if plan.task != "neural.train":
            return super().total(plan)
        spec, items = self._read(plan)
        asked = question(plan)
        if len(asked.class_weight):
            items = replace(items, weight=row_weights(spec, items, asked.class_weight))
            asked = replace(asked, class_weight=np.zeros(0))
        names = turn(spec, asked.round)
        names = self.names if names is None else names
        names = [name for name in names if name in plan.to] if plan.to else names
        before = self._kept.get(goes_on_from(plan), {})
        network = network_of(spec)
        together = len(names) >= MANY and asked.round < spec.strategy.rounds
        run = self._together if together and stackable(spec, network) else self._each
        sums, kept = run(spec, items, names, asked, before)
        if spec.strategy.name == "scaffold":
            roles = self._roles(spec)
            inside = items.weight if roles is None else items.weight[roles == TRAINED]
            sums["everyone"] = np.asarray(inside.sum(dtype=np.float64))
        kept = {name: memory for name, memory in kept.items() if memory}
        if kept and plan.to:
            self._keep_of(plan, kept)
        elif kept := {**before, **kept}:
            self._kept = dict([*self._kept.items(), (plan.bare_hash, kept)][-HELD:])
        return Total(sums)

    def _read(self, plan: Plan) -> tuple[NeuralSpec, Inputs]:
        """The spec, and the rows as its networks read them; made once for the rounds of a fit."""
        fixed, state = (plan.values["spec"], plan.values["rows"]), plan.values["state"]
        scaling = [np.asarray(state["scaling"][name]) for name in ("centre", "spread")]
        if self._known is None or self._known[0] != fixed:
            self._known, self._inputs = (fixed, spec_of(plan)), None
        spec = self._known[1]
        plan.once("spec", lambda: spec)
        if self._inputs is None or not all(map(np.array_equal, self._inputs[0], scaling)):
            found = inputs_of(spec, scaling_of(plan), self.rows)
            self._inputs = scaling, replace(found, keys=self._keys)
        return spec, self._inputs[1]

    def _each(
        self,
        spec: NeuralSpec,
        items: Inputs,
        names: Sequence[str],
        asked: Question,
        before: Mapping[str, Memory],
    ) -> tuple[Sums, dict[str, Memory]]:
        """One site after the other, or as many lanes of them as are worth their threads."""
        lanes = self._lanes(spec, items, names, asked)

        def lane(i: int) -> tuple[Sums, dict[str, Memory]]:
            network_of(spec).drawing(items, self._order)  # a thread has a network of its own
            return self._in_turn(spec, items, names[i::lanes], asked, before)

        return lane(0) if lanes == 1 else _added(side_by_side(lane, range(lanes)))

    def _lanes(self, spec: NeuralSpec, items: Inputs, names: Sequence[str], asked: Question) -> int:
        """How many sites are trained at the same time."""
        lanes = cores()
        if len(names) < max(lanes, 2) or len(names) * len(asked.weights) < lanes * LANE:
            return 1
        return 1 if network_of(spec).drawing(items, self._order) else lanes

    def _in_turn(
        self,
        spec: NeuralSpec,
        items: Inputs,
        names: Sequence[str],
        asked: Question,
        before: Mapping[str, Memory],
    ) -> tuple[Sums, dict[str, Memory]]:
        """One site after the other."""
        sums: Sums = {}
        kept = {}
        for name in names:
            parts = self._parts_of(spec, name)
            memory = before.get(name, {})
            leaves, kept[name] = trained(spec, items, *parts, asked, memory, name)
            _add(sums, {leaf: number(value) for leaf, value in leaves.items()})
        return sums, kept

    def _together(
        self,
        spec: NeuralSpec,
        items: Inputs,
        names: Sequence[str],
        asked: Question,
        before: Mapping[str, Memory],
    ) -> tuple[Sums, dict[str, Memory]]:
        """All sites at once."""
        parts = [self._parts_of(spec, name) for name in names]
        watched = np.concatenate([one for _, one in parts])
        network, watching = network_of(spec).load(asked.weights, asked.beside), np.zeros(2)
        if len(watched):
            weight = items.weight[watched].astype(np.float64)
            watching[:] = network.losses(items, watched) @ weight, weight.sum()
        own = {name: rows for name, (rows, _) in zip(names, parts, strict=True) if len(rows)}
        kept: dict[str, Memory] = {}
        if spec.strategy.gradients:
            sums = _gradients(spec, items, own, asked)
        else:
            lanes = lanes_of(spec, len(asked.weights), list(own.values()))
            if not self._stacks or self._stacks[0].network is not network:
                self._stacks = []
            self._stacks += [Stack(network) for _ in range(lanes - len(self._stacks))]
            sums, kept = _stacked(self._stacks[:lanes], spec, items, own, asked, before)
        if not all(np.isfinite(value).all() for value in sums.values()):
            raise ran_away()
        return {**sums, "watched": watching, "beside": np.zeros(len(asked.beside))}, kept

    def _parts_of(self, spec: NeuralSpec, name: str) -> tuple[Ints, Ints]:
        """Rows of a site that are trained on, and rows whose loss is watched."""
        site = self._place[name]
        rows = self._order[self._starts[site] : self._starts[site + 1]]
        roles = self._roles(spec)
        if roles is None:
            return rows, rows[:0]
        return rows[roles[rows] == TRAINED], rows[roles[rows] == WATCHED]

    def _roles(self, spec: NeuralSpec) -> NDArray[np.int8] | None:
        """What each row is for, (n_rows,), worked out once; None: all are trained on."""
        if not spec.validation and "folds" not in spec.rows:
            return None

        def make() -> NDArray[np.int8]:
            roles = np.full(len(self._order), OUTSIDE, dtype=np.int8)
            for site, name in enumerate(self.names):
                rows = self._order[self._starts[site] : self._starts[site + 1]]
                inside, watched = divided(spec, np.arange(len(rows)), name)
                roles[rows[inside]], roles[rows[watched]] = TRAINED, WATCHED
            return roles

        folds = sorted(spec.rows.items())
        found: NDArray[np.int8] = self.rows.cached(
            f"roles {folds} {spec.validation} {spec.seed}", make
        )
        return found


def _gradients(spec: NeuralSpec, items: Inputs, own: Mapping[str, Ints], asked: Question) -> Sums:
    """Sums of gradients at the same weights are the gradient over the rows of all sites."""
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *own.values()])
    answer = train(spec, network_of(spec), items, rows, asked, {})
    weight = np.asarray(answer.weight)
    return {"change": answer.change * weight, "weight": weight, "loss": np.asarray(answer.loss)}


def _stacked(
    lanes: Sequence[Stack],
    spec: NeuralSpec,
    items: Inputs,
    own: Mapping[str, Ints],
    asked: Question,
    before: Mapping[str, Memory],
) -> tuple[Sums, dict[str, Memory]]:
    """Sums over sites that are trained side by side, and their controls (Scaffold)."""
    rows = list(own.values())
    groups = list(stacks(spec, len(asked.weights), rows, len(lanes)))

    def lane(i: int) -> tuple[Sums, dict[str, Memory]]:
        return _lane(lanes[i], groups[i :: len(lanes)], spec, items, own, asked, before)

    return _added(side_by_side(lane, range(len(lanes))))


def _added(parts: Sequence[tuple[Sums, dict[str, Memory]]]) -> tuple[Sums, dict[str, Memory]]:
    """Sums, and what sites keep, of several lanes."""
    sums: Sums = {}
    kept: dict[str, Memory] = {}
    for more, memories in parts:
        _add(sums, more)
        kept |= memories
    return sums, kept


def _add(sums: Sums, more: Mapping[str, Any]) -> None:
    """Onto sums, in place where there is something."""
    for name, value in more.items():
        if name in sums:
            sums[name] += value
        else:
            sums[name] = np.array(value, dtype=np.float64)


def _lane(
    stack: Stack,
    groups: Sequence[Ints],
    spec: NeuralSpec,
    items: Inputs,
    own: Mapping[str, Ints],
    asked: Question,
    before: Mapping[str, Memory],
) -> tuple[Sums, dict[str, Memory]]:
    """The same of groups of sites, by their places in `own`, one group after the other."""
    names, rows = list(own), list(own.values())
    start, size = asked.weights.astype(np.float64), len(asked.weights)
    scaffold = spec.strategy.name == "scaffold"
    sums: Sums = {"change": np.zeros(size), "weight": np.zeros(()), "loss": np.zeros(())}
    sums |= {"control": np.zeros(size)} if scaffold else {}
    kept: dict[str, Memory] = {}
    for places in groups:
        controls = None
        if scaffold:
            nothing = {"control": np.zeros(size, np.float32)}
            held = [before.get(names[place], nothing)["control"] for place in places]
            controls = np.array(held, dtype=np.float32)
        found = train_stack(stack, spec, items, [rows[i] for i in places], asked, controls)
        each = found.weight
        sums["change"] += each @ found.weights.astype(np.float64) - each.sum() * start
        sums["weight"] += each.sum()
        sums["loss"] += found.loss.sum()
        if controls is not None:
            gone = (found.weights - start) / (found.steps * asked.lr)[:, None]
            after = (controls - asked.extra["control"].astype(np.float64) - gone).astype(np.float32)
            sums["control"] += each @ (after.astype(np.float64) - controls)
            for place, control in zip(places, after, strict=True):
                kept[names[place]] = {"control": control.copy()}
    return sums, kept
