// Runs the tests whose names contain the first argument, or all of them.

#include <cstdio>
#include <cstring>
#include <exception>

#include "check.h"

int main(int argc, char** argv) {
    int n_run = 0, n_failed = 0;
    for (const auto& [name, body] : codellama::test::tests()) {
        if (argc > 1 && name.find(argv[1]) == std::string::npos) continue;
        ++n_run;
        try {
            body();
        } catch (const std::exception& error) {
            ++n_failed;
            std::printf("FAILED %s: %s\n", name.c_str(), error.what());
        }
    }
    std::printf("%d tests, %d failed\n", n_run, n_failed);
    return n_run == 0 || n_failed > 0;
}
