"""How a network is trained across hospitals: a constructor for each strategy."""

from __future__ import annotations

from typing import Any

from polyclinic.models.neural.strategy import Strategy


def _made(name: str, given: dict[str, Any], more: dict[str, Any]) -> Strategy:
    return Strategy.from_data({"name": name, **given, **more})


def FedAvg(
    rounds: int = 20,
    local_epochs: int = 1,
    batch_size: int = 32,
    lr: float = 0.01,
    **more: Any,
) -> Strategy:
    """Federated averaging (McMahan et al. 2017): sites train, their weights are averaged by rows.

    Parameters
    ----------
    rounds : communication rounds.
    local_epochs : passes over a site's rows in one round; or `local_steps` mini-batches.
    batch_size : rows of a local step; 0: all rows of the site.
    lr : local step size.
    more : `local_steps`, `site_steps` (mini-batches by site, where machines are slower),
        `local_seconds` (after which a site begins no further step of a round), `momentum`,
        `weight_decay`, `optimizer` ("sgd", "adam"), `lr_schedule` ("decay", "step", "cosine") with
        `lr_decay` and `lr_every`, `server_lr` with `server_schedule`, `server_decay` and
        `server_every`, `stop_after` (rounds without a better validation loss), `clients` (share of
        the sites that train in a round), `fine_tune` (steps of each site's own network after the
        last round), `compress` with `keep` and `whole_every` (fewer bytes).
    """
    given = {"rounds": rounds, "local_epochs": local_epochs, "batch_size": batch_size, "lr": lr}
    return _made("fedavg", given, more)


def FedSGD(rounds: int = 100, lr: float = 0.1, batch_size: int = 0, **more: Any) -> Strategy:
    """Gradient sharing: each round is one step along the mean gradient of all rows.

    Parameters
    ----------
    rounds : steps.
    lr : step size.
    batch_size : rows whose gradient is computed at once; 0: the library's choice.
    more : `lr_schedule`, `lr_decay`, `lr_every`, `clients`, `stop_after`.
    """
    return _made("fedsgd", {"rounds": rounds, "lr": lr, "batch_size": batch_size}, more)


def FedProx(rounds: int = 20, mu: float = 0.01, lr: float = 0.01, **more: Any) -> Strategy:
    """FedAvg whose sites are held near the common weights (Li et al. 2020).

    Parameters
    ----------
    rounds : communication rounds.
    mu : weight of 1/2 |w - w_start|^2 beside the mean local loss.
    lr : local step size.
    more : the options of `FedAvg`.
    """
    return _made("fedprox", {"rounds": rounds, "mu": mu, "lr": lr}, more)


def Scaffold(rounds: int = 20, lr: float = 0.01, server_lr: float = 1.0, **more: Any) -> Strategy:
    """FedAvg with control variates against the drift of unlike sites (Karimireddy et al. 2020).

    Each site keeps its own control (option II of the paper) in its own memory. The change of the
    controls leaves beside that of the weights, so twice as many numbers are sent.

    Parameters
    ----------
    rounds : communication rounds.
    lr : local step size.
    server_lr : step size of the coordinator along the mean change.
    more : the options of `FedAvg`, without `momentum` and `optimizer`.
    """
    return _made("scaffold", {"rounds": rounds, "lr": lr, "server_lr": server_lr}, more)


def FedAdam(rounds: int = 20, lr: float = 0.01, server_lr: float = 0.01, **more: Any) -> Strategy:
    """Sites train, the coordinator takes an Adam step along the mean change (Reddi et al. 2021).

    Parameters
    ----------
    rounds : communication rounds.
    lr : local step size.
    server_lr : step size of the coordinator.
    more : `beta1` (0.9), `beta2` (0.99), `tau` (0.001), and the options of `FedAvg`. Running means
        start at 0 and are not corrected for it, as in the paper; with `bias_correction` they are,
        as in Kingma & Ba (2015).
    """
    return _made("fedadam", {"rounds": rounds, "lr": lr, "server_lr": server_lr}, more)


def FedYogi(rounds: int = 20, lr: float = 0.01, server_lr: float = 0.01, **more: Any) -> Strategy:
    """As `FedAdam`, with Yogi's rule for the running square (Reddi et al. 2021).

    Parameters
    ----------
    rounds : communication rounds.
    lr : local step size.
    server_lr : step size of the coordinator.
    more : as of `FedAdam`, without `bias_correction`.
    """
    return _made("fedyogi", {"rounds": rounds, "lr": lr, "server_lr": server_lr}, more)


def FedAdagrad(rounds: int = 20, lr: float = 0.01, server_lr: float = 0.1, **more: Any) -> Strategy:
    """As `FedAdam`, with the sum of all squares (Reddi et al. 2021).

    Parameters
    ----------
    rounds : communication rounds.
    lr : local step size.
    server_lr : step size of the coordinator.
    more : as of `FedAdam`, without `beta2` and `bias_correction`.
    """
    return _made("fedadagrad", {"rounds": rounds, "lr": lr, "server_lr": server_lr}, more)


def Cyclic(rounds: int = 20, order: str = "shuffled", lr: float = 0.01, **more: Any) -> Strategy:
    """Cyclic weight transfer (Chang et al. 2018): one site after the other trains on.

    A round is one site's turn; the others add zeros. So every sum is one site's update, and the
    sites' policies must allow that (`updates_alone`).

    Parameters
    ----------
    rounds : turns: with K sites, K rounds are one cycle.
    order : "shuffled" anew in each cycle, or "named": by the sites' names.
    lr : local step size.
    more : the local options of `FedAvg`.
    """
    return _made("cyclic", {"rounds": rounds, "order": order, "lr": lr}, more)


def FedBN(rounds: int = 20, lr: float = 0.01, **more: Any) -> Strategy:
    """FedAvg in which layers of batch normalisation stay at the sites (Li, Jiang et al. 2021).

    Parameters
    ----------
    rounds : communication rounds.
    lr : local step size.
    more : the options of `FedAvg`.
    """
    return _made("fedbn", {"rounds": rounds, "lr": lr}, more)


def FedPer(rounds: int = 20, layers: int = 1, lr: float = 0.01, **more: Any) -> Strategy:
    """FedAvg in which the last layers stay at the sites (Arivazhagan et al. 2019).

    Parameters
    ----------
    rounds : communication rounds.
    layers : last layers with numbers of their own that stay.
    lr : local step size.
    more : the options of `FedAvg`.
    """
    return _made("fedper", {"rounds": rounds, "layers": layers, "lr": lr}, more)


def Ditto(rounds: int = 20, pull: float = 0.1, lr: float = 0.01, **more: Any) -> Strategy:
    """FedAvg, and beside it at each site an own network drawn to the common one (Li et al. 2021).

    Parameters
    ----------
    rounds : communication rounds.
    pull : weight (lambda of the paper) of 1/2 |v - w|^2 beside the mean loss of the own network v.
    lr : local step size of both.
    more : the options of `FedAvg`.
    """
    return _made("ditto", {"rounds": rounds, "pull": pull, "lr": lr}, more)


def FedNova(rounds: int = 20, lr: float = 0.01, **more: Any) -> Strategy:
    """FedAvg of mean local steps, for sites that take unlike numbers of them (Wang et al. 2020).

    Each site's change is divided by its local steps; the mean by rows is taken as many times as
    sites take steps on average. So whoever takes more steps does not count for more.

    Parameters
    ----------
    rounds : communication rounds.
    lr : local step size.
    more : the options of `FedAvg`, without `momentum` and `optimizer`.
    """
    return _made("fednova", {"rounds": rounds, "lr": lr}, more)


def FedBuff(
    rounds: int = 20, buffer: int = 2, staleness: float = 0.5, lr: float = 0.01, **more: Any
) -> Strategy:
    """Each site trains and answers at its own pace (Nguyen et al. 2022): none waits for a slow one.

    After `buffer` answers, of whichever sites, there are new common weights, and the sites that are
    free train on from them. Each answer is one site's update, so the sites' policies must allow
    that (`updates_alone`), or the fit has noise.

    Parameters
    ----------
    rounds : versions of the common weights.
    buffer : answers behind a new version; at most one of each site.
    staleness : an answer that began t versions ago counts (1 + t)**-staleness; 0: all alike.
    lr : local step size.
    more : `weigh` ("rows"; or "sites": all alike, as in the paper), `server` ("average", "adam",
        "yogi", "adagrad") with `beta1`, `beta2` and `tau`, and the options of `FedAvg` without
        `clients`, `stop_after` and `fine_tune`.
    """
    given = {"rounds": rounds, "buffer": buffer, "staleness": staleness, "lr": lr}
    return _made("fedbuff", given, more)
