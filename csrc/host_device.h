// Functions for the host and for a CUDA device, and loops that are unrolled or stay loops on both.
#pragma once

#ifdef __CUDACC__
#define FC_HD __host__ __device__ __forceinline__
#define FC_UNROLL _Pragma("unroll")
#define FC_ROLLED _Pragma("unroll 1")
#else
// Never a function of its own, which as a weak symbol could stand in, with one instruction set's
// code, for that of another.
#define FC_HD inline __attribute__((always_inline))
#define FC_UNROLL _Pragma("GCC unroll 16")
#define FC_ROLLED
#endif
#define FC_HOST inline __attribute__((always_inline))  // of the host alone
