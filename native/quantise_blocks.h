// The encoders of the block formats, included by one file for each instruction set. Every sum runs in
// the order of the numbers and nothing is contracted, so all of them give the bits of
// `quant/blocks_32.py` and `quant/encode_k.py`, which say what is computed and why.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "quantise.h"
#include "quantise_32.h"
#include "quantise_k.h"

namespace codellama {
namespace CODELLAMA_QUANTISE_BODY {

extern const Encoder kEncoders[8];
const Encoder kEncoders[8] = {
    {"Q8_0", 32, 34, encode_q8_0},   {"Q4_0", 32, 18, encode_q4_0},
    {"Q4_1", 32, 20, encode_q4_1},   {"Q5_0", 32, 22, encode_q5_0},
    {"Q5_1", 32, 24, encode_q5_1},   {"Q4_K", 256, 144, encode_q4_k},
    {"Q5_K", 256, 176, encode_q5_k}, {"Q6_K", 256, 210, encode_q6_k},
};

}  // namespace CODELLAMA_QUANTISE_BODY
}  // namespace codellama
