// The tile instructions of AMX on a processor without them: each is refused by the processor, and
// the signal is answered by the twin (tile_twin.h), on whose tiles the program then goes on. What
// is tested so is the machine code itself: operands, addresses, numbers of tiles. x86-64 Linux.
#pragma once
#include <ucontext.h>

#include <csignal>

#include "tile_twin.h"

namespace fastcells {
namespace {

// One instruction in three bytes of VEX, of the map 0F38.
struct TileInstruction {
  int prefix, opcode;   // prefix: 0 none, 1 66, 2 F3, 3 F2
  int reg, rm, vvvv;    // tiles; rm where mode is 3
  bool is_register;     // no memory operand
  char* address;        // of the memory operand
  std::int64_t stride;  // the index register, scaled
  int length;
};

inline std::int64_t general_register(const ucontext_t& context, int number) {
  constexpr int kPlaces[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                             REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                             REG_R12, REG_R13, REG_R14, REG_R15};
  return context.uc_mcontext.gregs[kPlaces[number]];
}

inline TileInstruction decode(const unsigned char* code, const ucontext_t& context) {
  constexpr int kEscape = 0xC4, kMap0F38 = 2, kBySib = 4;
  demand(code[0] == kEscape && (code[1] & 0x1F) == kMap0F38, "an instruction of no tile");
  demand((code[2] & 0x84) == 0, "W and L of a tile instruction are 0");
  const int x = code[1] & 0x40 ? 0 : 8, b = code[1] & 0x20 ? 0 : 8, modrm = code[4],
            mode = modrm >> 6;
  TileInstruction i{
      code[2] & 3, code[3], modrm >> 3 & 7, modrm & 7, ~code[2] >> 3 & 15, mode == 3, nullptr,
      0,           5};
  if (i.is_register) return i;
  int base = i.rm | b;
  bool has_base = true;
  if (i.rm == kBySib) {
    const int sib = code[i.length++], index = (sib >> 3 & 7) | x;
    base = (sib & 7) | b;
    has_base = (sib & 7) != 5 || mode != 0;
    if (index != 4) i.stride = general_register(context, index) << (sib >> 6);
  } else {
    demand(mode != 0 || i.rm != 5, "addresses by rip are not decoded");
  }
  std::int64_t address = has_base ? general_register(context, base) : 0;
  if (mode == 1) {
    address += static_cast<signed char>(code[i.length++]);
  } else if (mode == 2 || !has_base) {
    std::int32_t displacement;
    std::memcpy(&displacement, code + i.length, sizeof displacement);
    address += displacement, i.length += 4;
  }
  i.address = reinterpret_cast<char*>(address);
  return i;
}

inline void run_on_twin(const TileInstruction& i) {
  constexpr int kNone = 0, k66 = 1, kF3 = 2, kF2 = 3;
  const int what = i.opcode << 4 | i.prefix << 1 | int(i.is_register);
  const auto of = [](int opcode, int prefix, bool is_register) {
    return opcode << 4 | prefix << 1 | int(is_register);
  };
  if (what == of(0x49, kNone, false)) {
    TileConfiguration shapes;
    std::memcpy(&shapes, i.address + i.stride, sizeof shapes);
    TileTwin::configure(shapes);
  } else if (what == of(0x49, kNone, true)) {
    TileTwin::release();
  } else if (what == of(0x49, kF2, true)) {
    TileTwin::zero(i.reg);
  } else if (what == of(0x4B, kF2, false)) {
    TileTwin::load(i.reg, i.address, i.stride);
  } else if (what == of(0x4B, kF3, false)) {
    TileTwin::store(i.reg, i.address, i.stride);
  } else if (what == of(0x5C, kF3, true)) {
    TileTwin::add_pairs(i.reg, i.rm, i.vvvv);
  } else if (what == of(0x5E, k66, true)) {
    TileTwin::add_quads(i.reg, i.rm, i.vvvv);
  } else {
    refuse("an instruction that the twin does not know");
  }
}

// From here on the twin answers.
inline void trap_tiles() {
  struct sigaction action{};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = [](int, siginfo_t*, void* given) {
    auto& context = *static_cast<ucontext_t*>(given);
    auto& place = context.uc_mcontext.gregs[REG_RIP];
    const TileInstruction i = decode(reinterpret_cast<const unsigned char*>(place), context);
    run_on_twin(i);
    place += i.length;
  };
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace
}  // namespace fastcells
