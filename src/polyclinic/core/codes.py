"""The codes that may cross a site's border, and the words that the other side supplies for them."""

from __future__ import annotations

# Codes that say "ask again later", not "no".
PASSING = frozenset(
    {"SITE_LOST", "HUB_LOST", "RUN_LOST", "AGENT_LOST", "CANNOT_WRITE", "CLUSTER_LOST"}
)
RULES = {
    "TOO_FEW_PATIENTS": "the hospital's policy: a number leaves only with enough patients behind "
    "it (5 unless the hospital says otherwise)",
    "CELL_TOO_SMALL": "the hospital's policy: every cell of this table needs enough patients",
    "COLLECT_NOT_ALLOWED": "the hospital's policy allows sums over hospitals; an answer of one "
    "hospital alone must be allowed by name",
    "SUBSET_TOO_SMALL": "the hospital's policy: a cohort, and the patients that its condition "
    "leaves out, are either nobody or enough patients (10 unless the hospital says otherwise)",
    "LEVEL_TOO_SMALL": "the hospital's policy: every level of a column has enough patients where "
    "its sums can be seen",
    "TOO_MANY_LEVELS": "the hospital's policy: a column has no more levels than its patients can "
    "fill (40, and one per 10 patients, unless the hospital says otherwise)",
    "SATURATED": "the hospital's policy: a model has at least 10 patients per coefficient where "
    "its sums can be seen; else its sums can be solved for single patients",
    "EFFECTIVE_SIZE": "the hospital's policy: no patient or two carry the weights of a sum; "
    "else coefficients could be chosen that show one patient",
    "NO_OVERLAP": "the models that a hospital is asked about leave nobody all but certain to be in "
    "one arm, or to have an outcome; else models could be chosen that tell one patient from all",
    "LEVERAGE": "the hospital's policy: no patient decides a coefficient alone",
    "POLICY_UNSIGNED": "a hospital refuses every plan until it has signed a policy",
    "POLICY_CHANGED": "a hospital refuses every plan while its policy is not the one it has signed",
    "POLICY_UNREADABLE": "a hospital refuses every plan while its version of Polyclinic cannot "
    "read the policy that it has signed",
    "ALGORITHM_NOT_ALLOWED": "the hospital's policy lists the algorithms that may run",
    "COLUMN_NOT_ALLOWED": "the hospital's policy lists the columns that may be read for a purpose",
    "ALONE_NOT_ALLOWED": "the hospital's policy: its own sums are not seen alone, only the total",
    "UPDATE_ALONE": "the hospital's policy: what training changed in a network is not seen by "
    "itself, as it can show an image or a patient that it was trained on; a total does not",
    "BAD_ITEM": "every row has an image of the codebook's shape, or an empty cell; the hospital's "
    "own check counts those that have not",
    "LOSS_EXPLODED": "only finite numbers leave a hospital: its loss or its weights ran away",
    "UNKNOWN_ARCHITECTURE": "a hospital runs installed architectures only, of the version that the "
    "study names; no code travels",
    "NO_TORCH": "a network is built with PyTorch, and some with MONAI or Keras, which a hospital "
    "installs by itself",
    "NO_DEVICE": "a network computes on the device that a hospital's own settings name, or not at "
    "all",
    "OUT_OF_MEMORY": "what a hospital computes with is held in memory at once: of a network a "
    "batch of rows, what it makes of it, and its numbers",
    "TOO_FEW_SITES": "the hospital's policy says how many hospitals take part; a secure sum "
    "needs three with enough patients",
    "SEEN_ALONE": "a hospital's own sum is seen by itself or in a total, not both: the total less "
    "what other hospitals have shown is the sum of the one that has not",
    "SEEN_TOGETHER": "a hospital's own sum is seen by itself or in a total, not both: by itself it "
    "would leave the other hospitals' part of the total",
    "HEAD_WENT_BACK": "the log of a hospital only grows: what it was once seen to hold stays in it",
    "NOT_JUDGED": "an algorithm says how patients share in its sums; else nothing of it leaves",
    "COHORT_TOO_CLOSE": "two cohorts that differ by a few patients show these patients' values",
    "TOO_MANY_COHORTS": "many cohorts together can single out a patient",
    "MEMBERSHIP_CHANGED": "all totals of one analysis are over the same hospitals: two totals, "
    "with and without a hospital, show that hospital's own numbers",
    "BUDGET_SPENT": "the hospital's budget of differential privacy for these data is spent",
    "NOISE_REQUIRED": "the hospital's policy: sums leave with noise only",
    "NOT_BOUNDED": "noise needs a bound on what one patient can change in a sum",
    "HOLDS_ROWS": "a model that consists of patients' rows, or whose numbers have no fixed form, "
    "does not leave a hospital",
    "UNKNOWN_TASK": "a hospital runs installed algorithms only; no code travels",
    "SCHEMA_MISMATCH": "a contribution holds exactly the arrays that its algorithm declares",
    "BAD_MESSAGE": "messages are canonical bytes of plain data",
    "WRONG_ANSWER": "an answer belongs to the site and the round that were asked",
    "SITE_LOST": "every hospital that a study needs must answer",
    "CLUSTER_LOST": "a worker's partitions go to the others while there is one, and a scheduler",
    "UNREADABLE": "every worker of a hospital's cluster reads its parts of the files itself",
    "SOURCE_CHANGED": "all rounds of a run are about the same rows",
    "TOO_LARGE_FOR_ONE": "a step that needs all rows of a hospital at once has them at one worker",
    "SITE_FAILED": "the hospital could not compute its part; the reason is shown there only",
    "NONFINITE": "no number that leaves is NaN or infinite",
    "RANGE": "every value lies within the range that the codebook declares",
    "GUARD": "a total lies within the guarded range of the ring",
    "BAD_DATA": "the hospital's data do not fit the plan; the column is shown there only",
    "TOO_MANY_SITES": "a secure sum has at most 64 hospitals: each agrees on keys with every other",
    "BELOW_THRESHOLD": "a total opens only with three hospitals, and as many as agreed upon",
    "BAD_SIGNATURE": "every message of a hospital carries the signature of its key in the roster",
    "KEY_SUBSTITUTED": "all hospitals see the same keys, and no key stands there twice",
    "INDEX_REUSED": "one set of masking keys hides one vector only",
    "OVERLAPPING_UNMASK": "of one hospital, either the self mask or the key is opened, never both",
    "U2_EQUIVOCATION": "of one round, one set of hospitals is opened only",
    "SHARE_INVALID": "a share is the one that was handed out",
    "CANARY_MISMATCH": "the known constants in a vector add up exactly",
    "VERSION_MISMATCH": "all hospitals speak the same version of the protocol",
    "DEADLINE": "an attempt that a later one has replaced is over",
    "CANNOT_WRITE": "nothing leaves a hospital before its journal holds it",
    "OUTSIDE_STUDY": "a hospital answers what stands in the study that it has approved: its steps, "
    "its columns, its patients, its model",
    "NOT_APPROVED": "a hospital answers nothing before its officer has approved the study",
    "STUDY_REFUSED": "a hospital answers nothing of a study that its officer has refused, or whose "
    "approval was taken back",
    "UNKNOWN_STUDY": "a study is offered to a hospital before anything of it is asked",
    "TOO_MANY": "a hub takes a few requests to join a second",
    "TOO_MANY_STUDIES": "a hospital keeps at most 1,000 studies that nobody has decided about, and "
    "goes on with an approved one over at most 8 different lists of hospitals",
    "WRONG_HUB": "a hospital takes studies of the hub that it has joined",
    "WRONG_SITE": "a question is for the hospital whose name stands on it",
    "CODEBOOK_DIFFERS": "all hospitals of a study read their data by the same codebook",
    "LEFTOVER_LOST": "a round goes on from one that the hospital has released before, and keeps "
    "the bytes of the last few",
    "REPLAYED": "a question is answered in its turn, and once",
    "RUN_LOST": "the name of a run is used once; a hospital's part of it ends with its process",
    "VERSION_DIFFERS": "hub and hospitals have the same version of Polyclinic",
    "AGENT_LOST": "the process that holds a hospital's rows answers, or has ended and starts anew",
}
NEXT = {
    "SEEN_ALONE": "ask for the hospitals' own sums again, or for another cohort or other columns",
    "SEEN_TOGETHER": 'use secure sums again: secure_sums = "auto"; results per hospital: '
    "show_sites = false",
    "HEAD_WENT_BACK": "compare the logs: `polyclinic site audit verify` at every hospital",
    "NOT_JUDGED": 'give the task an `exposure`; see "Add an algorithm" in the documentation',
    "TOO_FEW_PATIENTS": "leave the hospital out, widen the cohort, or use fewer groups",
    "CELL_TOO_SMALL": "merge rare levels in the codebook, use coarser bins, a larger group_size in "
    "a clustering, or leave a hospital of too few patients out",
    "COLLECT_NOT_ALLOWED": "ask the hospital to allow it, or leave results per hospital out: "
    "show_sites = false; an ensemble needs each hospital's own model",
    "SUBSET_TOO_SMALL": "widen the cohort, or drop its condition",
    "LEVEL_TOO_SMALL": "merge rare levels in the codebook, or use fewer columns; three or more "
    'hospitals are counted together (secure_sums = "auto")',
    "TOO_MANY_LEVELS": "merge levels in the codebook",
    "SATURATED": "use fewer columns; three or more hospitals are counted together "
    '(secure_sums = "auto")',
    "NO_OVERLAP": "leave out the covariate that decides who is treated, or merge its levels",
    "LEVERAGE": 'secure_sums = "auto", fewer columns, or coarser ones',
    "POLICY_UNSIGNED": "ask the hospital to read its policy and sign it: "
    "polyclinic site policy --sign",
    "POLICY_CHANGED": "ask the hospital to compare it with what was signed: polyclinic site policy",
    "POLICY_UNREADABLE": "ask the hospital what is wrong with it: polyclinic site policy",
    "ALGORITHM_NOT_ALLOWED": "ask the hospital to allow it",
    "COLUMN_NOT_ALLOWED": "ask the hospital, or leave the column out",
    "ALONE_NOT_ALLOWED": 'use secure sums: secure_sums = "auto"; results per hospital: '
    "show_sites = false",
    "TOO_FEW_SITES": "let more hospitals take part",
    "UPDATE_ALONE": 'three or more hospitals: secure_sums = "auto" with a strategy in rounds '
    "(FedAvg, FedProx, Scaffold, FedAdam), as FedBuff asks each by itself; else: ask them to allow "
    "updates_alone in their policy, or ask with differential privacy",
    "LOSS_EXPLODED": "lower the learning rate, or scale the columns",
    "BAD_ITEM": "at the hospital: polyclinic check DATA --schema CODEBOOK counts them; correct the "
    'files, empty their cells, or bring every image to the shape: fit = "resize" in the codebook',
    "UNKNOWN_ARCHITECTURE": "at the hospital: install the package that has the architecture, in "
    "the same version as elsewhere, and start the site again",
    "NO_TORCH": 'at the hospital: pip install "polyclinic[torch]" (of densenet121 '
    '"polyclinic[monai]")',
    "NO_DEVICE": "at the hospital: mend the card's driver, or name another device in data.toml or "
    'POLYCLINIC_DEVICE ("auto")',
    "OUT_OF_MEMORY": "use smaller batches, smaller images, or a smaller network; or give the "
    "hospital's machine more memory, and --resume",
    "COHORT_TOO_CLOSE": "fix the cohort once for all analyses, with the columns of all of them: "
    "missing values in one more column make another cohort. In a cross-validation: fewer folds; in "
    "a clustering: a larger group_size",
    "TOO_MANY_COHORTS": "use the cohorts that were released before",
    "TOO_MANY_SITES": "make one site of hospitals that may see each other's rows (a region), or "
    "leave out the smallest",
    "MEMBERSHIP_CHANGED": "go on with the same hospitals, or ask something else",
    "BUDGET_SPENT": "ask with a smaller epsilon, or ask the hospital for more budget",
    "NOISE_REQUIRED": "ask with privacy = DifferentialPrivacy(epsilon, delta)",
    "NOT_BOUNDED": "this analysis has no version with noise; ask for one that has",
    "HOLDS_ROWS": "use another base; arrays in one trust domain take any",
    "UNKNOWN_TASK": "install the same version of Polyclinic at every site",
    "RANGE": "declare the column's range in the codebook, or use a smaller unit",
    "NONFINITE": "run the quality check at the hospital: polyclinic check",
    "CLUSTER_LOST": "start the cluster again; a run with a store or a run folder goes on with "
    "resume",
    "UNREADABLE": "look at the log of that hospital: it names the file and the row group",
    "SOURCE_CHANGED": "start again over the new files",
    "TOO_LARGE_FOR_ONE": "give workers more memory, select fewer rows, or use a model that is "
    "fitted by sums",
    "SITE_FAILED": "look at the log of that hospital",
    "BAD_DATA": "run the quality check at the hospital: polyclinic check",
    "BELOW_THRESHOLD": "with fewer than three hospitals leave SecureSum out; else wait for the "
    "missing ones, then run again with --resume",
    "BAD_SIGNATURE": "compare the hospital's public key with the roster",
    "KEY_SUBSTITUTED": "compare the hospitals' rosters; do not go on before they are the same",
    "INDEX_REUSED": "ask again as a new attempt",
    "VERSION_MISMATCH": "install the same version of Polyclinic at every site",
    "DEADLINE": "ask again as a new attempt",
    "CANNOT_WRITE": "free some space at the hospital, then run again with --resume",
    "SITE_LOST": "wait for the hospital, then run again with --resume",
    "OUTSIDE_STUDY": "write it into the study and ask the hospitals again",
    "NOT_APPROVED": "ask the hospital: polyclinic site review",
    "STUDY_REFUSED": "ask the hospital why; another study needs another approval",
    "UNKNOWN_STUDY": "offer the study again: polyclinic run STUDY.toml --hub NAME",
    "TOO_MANY": "wait a minute, then join again",
    "TOO_MANY_STUDIES": "cancel runs that nobody needs (polyclinic hub cancel RUN), or ask the "
    "hospital to decide: polyclinic site review; an approved study: wait for all its hospitals",
    "WRONG_HUB": "ask through the hub that the hospital has joined",
    "CODEBOOK_DIFFERS": "send the hospital the codebook: polyclinic site join reads it with its "
    "data",
    "LEFTOVER_LOST": "start the run again from its beginning",
    "RUN_LOST": "go on under a new name from what is kept",
    "AGENT_LOST": "ask again; if it stays away, look at the log of that hospital",
    "VERSION_DIFFERS": "install the same version of Polyclinic at the hub and at every hospital",
}
