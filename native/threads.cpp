#include "threads.h"

#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <set>
#include <string>
#include <utility>

namespace codellama {

namespace {

constexpr auto kSpin = std::chrono::microseconds(200);

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Waits until `done`, at first without giving up the core.
template <class Done>
void spin_until(Done done, bool (*give_up)(std::chrono::steady_clock::duration)) {
    for (int i = 0; i < 256; ++i) {
        if (done()) return;
        pause();
    }
    const auto start = std::chrono::steady_clock::now();
    while (!give_up(std::chrono::steady_clock::now() - start)) {
        for (int i = 0; i < 16; ++i) {
            if (done()) return;
            pause();
        }
    }
}

#if defined(__linux__)

// The first CPU of the core that a CPU belongs to, or the CPU itself when the system does not say.
int first_sibling(int cpu) {
    std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                       "/topology/thread_siblings_list");
    int first;
    return file >> first ? first : cpu;
}

// CPUs' worth of time that the control group grants, or a large number.
int cpu_quota() {
    std::ifstream file("/sys/fs/cgroup/cpu.max");
    std::string quota;
    double period;
    if (!(file >> quota >> period) || quota == "max" || period <= 0) return 1 << 20;
    return std::max(1, static_cast<int>(std::ceil(std::strtod(quota.c_str(), nullptr) / period)));
}

#endif

}  // namespace

int n_physical_threads() {
#if defined(__linux__)
    // The mask is as long as the kernel's, which may know more than CPU_SETSIZE CPUs.
    for (size_t n = 1024; n <= size_t{1} << 20; n *= 2) {
        const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(
            CPU_ALLOC(n), [](cpu_set_t* set) { CPU_FREE(set); });
        const size_t size = CPU_ALLOC_SIZE(n);
        if (mask == nullptr || sched_getaffinity(0, size, mask.get()) != 0) continue;
        std::set<int> cores;
        for (size_t cpu = 0; cpu < n; ++cpu) {
            if (CPU_ISSET_S(cpu, size, mask.get())) {
                cores.insert(first_sibling(static_cast<int>(cpu)));
            }
        }
        return std::clamp(static_cast<int>(cores.size()), 1, cpu_quota());
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int n_threads) : owner_(getpid()) {
    try {
        for (int i = 1; i < n_threads; ++i) workers_.emplace_back(&ThreadPool::work, this, i);
    } catch (...) {  // no more threads to be had: end those that started
        end_workers();
        throw;
    }
}

ThreadPool::~ThreadPool() {
    if (getpid() != owner_) {  // a fork's copy: the threads are the parent's
        for (std::thread& worker : workers_) worker.detach();
        return;
    }
    end_workers();
}

void ThreadPool::end_workers() {
    stop_.store(true, std::memory_order_release);
    open_.fetch_add(uint64_t{1} << 32, std::memory_order_release);  // wakes who waits for a change
    open_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run_job(const Job& job) {
    job_ = job;
    unfinished_.store(job.n_chunks, std::memory_order_relaxed);
    const uint64_t number = (open_.load(std::memory_order_relaxed) >> 32) + 1;
    open_.store(number << 32 | static_cast<uint32_t>(job.n_chunks), std::memory_order_release);
    open_.notify_all();
    while (run_one_chunk(0)) {
    }
    const auto finished = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
    while (!finished()) {
        spin_until(finished, [](std::chrono::steady_clock::duration t) { return t > kSpin; });
        if (!finished()) std::this_thread::yield();
    }
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

bool ThreadPool::run_one_chunk(int thread) {
    uint64_t open = open_.load(std::memory_order_acquire);
    do {
        if (static_cast<uint32_t>(open) == 0) return false;
    } while (!open_.compare_exchange_weak(open, open - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire));
    // The chunk is ours, and the job stays until it is finished.
    const int chunk = job_.n_chunks - static_cast<int>(static_cast<uint32_t>(open));
    try {
        job_.call(job_.context, chunk, thread);
    } catch (...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
    }
    unfinished_.fetch_sub(1, std::memory_order_release);
    return true;
}

void ThreadPool::work(int thread) {
    while (!stop_.load(std::memory_order_acquire)) {
        if (run_one_chunk(thread)) continue;
        uint64_t open = open_.load(std::memory_order_acquire);
        const auto changed = [this, &open] {
            return open_.load(std::memory_order_acquire) != open;
        };
        spin_until(changed, [](std::chrono::steady_clock::duration t) { return t > kSpin; });
        if (!changed() && !stop_.load(std::memory_order_acquire)) {
            open_.wait(open, std::memory_order_acquire);
        }
    }
}

}  // namespace codellama
