// The encoders for CPUs with AVX2.
#define CODELLAMA_QUANTISE_BODY quantise_avx2
#include "quantise_blocks.h"
