// The pool: every chunk once, errors reach the caller, pools begin and end cleanly.

#include <chrono>
#include <stdexcept>

#include "check.h"
#include "threads.h"

namespace codellama::test {

namespace {

TEST(every_chunk_runs_once) {
    for (const int n_threads : {1, 2, 3, 8}) {
        ThreadPool pool(n_threads);
        CHECK(pool.n_threads() == n_threads);
        for (int n_chunks = 0; n_chunks < 400; ++n_chunks) {
            std::vector<int> counts(static_cast<size_t>(n_chunks));
            std::vector<int> seen(static_cast<size_t>(n_threads));
            pool.run(n_chunks, [&](int chunk, int thread) {
                counts[static_cast<size_t>(chunk)] += 1;
                seen[static_cast<size_t>(thread)] += 1;  // a race if two had the same number
            });
            for (const int count : counts) CHECK(count == 1);
            int total = 0;
            for (const int n : seen) total += n;
            CHECK(total == n_chunks);
        }
    }
}

TEST(workers_wake_after_a_sleep) {
    ThreadPool pool(3);
    for (int i = 0; i < 20; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));  // longer than workers spin
        std::atomic<int> sum{0};
        pool.run(50, [&](int chunk, int) { sum += chunk; });
        CHECK(sum == 50 * 49 / 2);
    }
}

TEST(an_error_reaches_the_caller) {
    ThreadPool pool(4);
    for (int i = 0; i < 100; ++i) {
        bool caught = false;
        std::atomic<int> n_run{0};
        try {
            pool.run(40, [&](int chunk, int) {
                n_run += 1;
                if (chunk % 7 == 3) throw std::runtime_error("as it should");
            });
        } catch (const std::runtime_error&) {
            caught = true;
        }
        CHECK(caught && n_run == 40);
        pool.run(40, [&](int, int) { n_run += 1; });  // and the pool goes on
        CHECK(n_run == 80);
    }
}

TEST(pools_come_and_go) {
    for (int i = 0; i < 50; ++i) {
        ThreadPool pool(1 + i % 4);
        std::atomic<int> sum{0};
        if (i % 3 != 0) pool.run(i, [&](int, int) { sum += 1; });
        CHECK(sum == (i % 3 != 0 ? i : 0));
    }
}

TEST(there_is_a_core) { CHECK(n_physical_threads() >= 1); }

}  // namespace

}  // namespace codellama::test
