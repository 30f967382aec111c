#include <stdexcept>

#include "check.h"
#include "machine.h"

using namespace codellama;

namespace {

template <class Call>
bool refuses(Call call) {
    try {
        call();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

}  // namespace

TEST(machine_reads_on_any_number_of_threads) {
    for (const int n_threads : {1, 3}) {
        // Not a whole number of lines for each thread.
        const auto rates = read_bandwidth(1'000'003, n_threads, 2);
        CHECK(rates.size() == 2);
        for (const double rate : rates) CHECK(rate > 0);
    }
}

TEST(machine_computes_every_kind_it_names) {
    for (const auto& kind : peak_kinds()) {
        const auto rates = peak(kind, 2, 1);
        CHECK(rates.size() == 1);
        CHECK(rates[0] > 0);
    }
}

TEST(machine_refuses_what_it_cannot_measure) {
    CHECK(refuses([] { peak("fp8_none", 1, 1); }));
    CHECK(refuses([] { read_bandwidth(64, 1, 1); }));
    CHECK(refuses([] { read_bandwidth(1 << 20, 0, 1); }));
    CHECK(refuses([] { read_bandwidth(1 << 20, 1, 0); }));
    CHECK(refuses([] { read_bandwidth(int64_t{1} << 41, 1, 1); }));
    CHECK(refuses([] { read_bandwidth(1 << 20, 1 << 20, 1); }));
}
