// The CPU attention kernels of the baseline: attention_cases.h.
#include "cpu/simd/baseline.h"

#include "attention_cases.h"

int main() { return fastcells::check_attention_kernels(); }
