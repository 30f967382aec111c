#include "cache.h"

#include <stdexcept>

namespace codellama {

CacheFormat parse_cache_format(const std::string& name) {
    if (name == "F32") return CacheFormat::f32;
    if (name == "F16") return CacheFormat::f16;
    if (name == "Q8_0") return CacheFormat::q8_0;
    throw std::invalid_argument("keys and values cannot be kept as \"" + name +
                                "\", only as F32, F16 or Q8_0");
}

}  // namespace codellama
