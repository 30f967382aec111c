// The smallest test framework: tests register themselves, and a failed check ends its test.
#pragma once

#include <functional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace codellama::test {

using Test = std::pair<std::string, std::function<void()>>;

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Registration {
    Registration(const char* name, std::function<void()> body) {
        tests().emplace_back(name, std::move(body));
    }
};

inline std::vector<float> normal(std::mt19937& random, size_t n) {
    std::normal_distribution<float> distribution;
    std::vector<float> numbers(n);
    for (float& x : numbers) x = distribution(random);
    return numbers;
}

}  // namespace codellama::test

#define TEST(name)                                                             \
    static void name();                                                        \
    static const codellama::test::Registration name##_registration(#name, name); \
    static void name()

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::ostringstream where;                                            \
            where << __FILE__ << ":" << __LINE__ << ": " << #condition;          \
            throw std::runtime_error(where.str());                               \
        }                                                                        \
    } while (false)
