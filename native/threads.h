// A small pool of threads that work through numbered chunks.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace codellama {

// Physical cores this process may use: the affinity mask without hyper-threads' twins, and no more
// than the control group's CPU quota.
int n_physical_threads();

// Runs chunks on the calling thread and n_threads - 1 others.
//
// Threads claim chunks one by one, the caller included, and the caller waits for claimed chunks only.
// So a worker that sleeps, or that the system keeps off its core, delays nobody: the others take its
// share. For the same reason a process that forked may go on using its copy of the pool, whose
// workers did not come along: the caller does all the work. One caller at a time; the model sees to
// that. Workers spin for a short while after a job, since the next one is usually microseconds away,
// and then sleep. They are not pinned to cores, so that the system can move them off a busy one.
class ThreadPool {
  public:
    explicit ThreadPool(int n_threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(chunk, thread) for every chunk in [0, n_chunks), where `thread` is in
    // [0, n_threads()) and no two calls at a time have the same. Rethrows the first exception.
    template <class Body>
    void run(int n_chunks, Body&& body) {
        if (n_chunks <= 1 || workers_.empty()) {
            for (int chunk = 0; chunk < n_chunks; ++chunk) body(chunk, 0);
            return;
        }
        run_job({[](void* context, int chunk, int thread) {
                     (*static_cast<std::remove_reference_t<Body>*>(context))(chunk, thread);
                 },
                 &body, n_chunks});
    }

  private:
    struct Job {
        void (*call)(void* context, int chunk, int thread);
        void* context;
        int n_chunks;
    };

    void run_job(const Job& job);
    void work(int thread);
    void end_workers();
    bool run_one_chunk(int thread);

    // A job's number in the upper half and its unclaimed chunks in the lower. Claiming is a
    // compare-and-swap of both, so a thread that comes late cannot touch a job it did not see.
    alignas(64) std::atomic<uint64_t> open_{0};
    alignas(64) std::atomic<int> unfinished_{0};
    alignas(64) std::atomic<bool> stop_{false};
    Job job_{};
    std::mutex error_mutex_;
    std::exception_ptr error_;
    std::vector<std::thread> workers_;
    pid_t owner_;
};

}  // namespace codellama
