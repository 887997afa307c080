"""Neural networks, trained at the hospitals and averaged, or by gradients.

What leaves a site in a round is one vector as long as the network has numbers: by how much its own
training moved each of them, times its number of rows; beside it the number of rows, and its losses.
No row leaves, but a vector of one site alone can show a patient's image (Zhu, Liu & Han 2019), so
without noise it is let out in a secure sum only, unless the site's policy says otherwise.
"""

from polyclinic.models.neural.kinds import kinds
from polyclinic.models.neural.predictor import NeuralPredictor
from polyclinic.models.neural.tasks import tasks

__all__ = ["NeuralPredictor", "kinds", "tasks"]
