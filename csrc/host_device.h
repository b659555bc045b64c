// Functions for the host and for a CUDA device, and loops that are unrolled or stay loops on both.
#pragma once

// Of the host alone. Never a function of its own, which as a weak symbol could stand in, with one
// instruction set's code, for that of another.
#define FC_INLINE inline __attribute__((always_inline))

#ifdef __CUDACC__
#define FC_HD __host__ __device__ __forceinline__
#define FC_UNROLL _Pragma("unroll")
#define FC_ROLLED _Pragma("unroll 1")
#else
#define FC_HD FC_INLINE
#define FC_UNROLL _Pragma("GCC unroll 16")
#define FC_ROLLED
#endif
