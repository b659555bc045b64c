// What the norms over the units of a row have in common on every device. Torch-free.
#pragma once

namespace fastcells {

// Added to a variance: torch.nn.LayerNorm's eps.
constexpr double kNormEpsilon = 1e-5;

}  // namespace fastcells
