"""Units used everywhere inside: cm, ns, MeV, photons, degrees at interfaces.

Files carry some quantities in other units (``energyTruth`` in GeV, ``relative_time`` in s);
they are converted once, at the boundary, with the factors below.
"""

from typing import Final

MEV_PER_GEV: Final = 1.0e3
NS_PER_S: Final = 1.0e9
CM_PER_MM: Final = 0.1
SPEED_OF_LIGHT_CM_PER_NS: Final = 29.9792458
