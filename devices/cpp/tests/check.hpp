// The little that the tests need of a test framework.
#pragma once

#include <cstddef>
#include <cstdio>
#include <exception>
#include <string>

namespace check {

/// Counts what holds and what does not, and prints the latter.
class Report {
 public:
  void that(bool holds, const std::string& what) {
    ++count_;
    if (holds) return;
    ++failed_;
    std::fprintf(stderr, "failed: %s\n", what.c_str());
  }

  template <class Call>
  void refuses(const std::string& what, const std::string& said, const Call& call) {
    try {
      call();
      that(false, what + ": accepted");
    } catch (const std::exception& error) {
      const std::string message = error.what();
      that(message.find(said) != std::string::npos, what + ": " + message);
    }
  }

  int finish(const char* name) const {
    std::printf("%s: %zu passed, %zu failed\n", name, count_ - failed_, failed_);
    return failed_ == 0 && count_ > 0 ? 0 : 1;
  }

 private:
  std::size_t count_ = 0, failed_ = 0;
};

}  // namespace check
