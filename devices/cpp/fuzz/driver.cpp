// fuzz_NAME SECONDS SEED...: runs a reader on files, then on changed ones, until the time is over.
// For compilers without libFuzzer.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "exportloss/files.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using exportloss::Bytes;

constexpr std::uint64_t largest = 1 << 20;  // bytes of an input

class Mutator {
 public:
  explicit Mutator(const std::vector<Bytes>& seeds) : seeds_(seeds) {}

  Bytes next() {
    Bytes input = seeds_[below(seeds_.size())];
    for (std::size_t changes = 1 + below(6); changes > 0; --changes) change(input);
    return input;
  }

 private:
  std::size_t below(std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(0, most - 1)(random_);
  }

  void change(Bytes& input) {
    if (input.empty()) input.push_back(0);
    const std::size_t at = below(input.size());
    const std::size_t length = std::min(input.size() - at, 1 + below(16));
    const auto place = input.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(6)) {
      case 0:
        *place ^= static_cast<std::uint8_t>(1 << below(8));
        break;
      case 1:
        *place = static_cast<std::uint8_t>(below(256));
        break;
      case 2:
        input.erase(place, place + static_cast<std::ptrdiff_t>(length));
        break;
      case 3: {
        const Bytes copy(place, place + static_cast<std::ptrdiff_t>(length));
        input.insert(input.begin() + static_cast<std::ptrdiff_t>(below(input.size())), copy.begin(),
                     copy.end());
        break;
      }
      case 4: {  // a part of another seed
        const Bytes& other = seeds_[below(seeds_.size())];
        if (other.empty()) break;
        const auto from = other.begin() + static_cast<std::ptrdiff_t>(below(other.size()));
        const auto count = std::min<std::ptrdiff_t>(other.end() - from, 64);
        input.insert(place, from, from + count);
        break;
      }
      default:
        input.resize(at);
    }
    if (input.size() > largest) input.resize(largest);
  }

  const std::vector<Bytes>& seeds_;
  std::mt19937_64 random_{0};
};

void keep(const Bytes& input) {
  // What is on the disk when the reader crashes is what crashed it.
  std::FILE* file = std::fopen("fuzz-input.bin", "wb");
  if (file == nullptr) return;
  std::fwrite(input.data(), 1, input.size(), file);
  std::fclose(file);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  std::vector<Bytes> seeds;
  for (int index = 2; index < count; ++index) {
    seeds.push_back(exportloss::read_bounded(arguments[index], largest));
    keep(seeds.back());
    LLVMFuzzerTestOneInput(seeds.back().data(), seeds.back().size());
  }
  Mutator mutator(seeds);
  std::size_t runs = 0;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
  while (std::chrono::steady_clock::now() < end) {
    const Bytes input = mutator.next();
    keep(input);
    LLVMFuzzerTestOneInput(input.data(), input.size());
    ++runs;
  }
  std::printf("%zu inputs, no finding\n", runs);
  std::remove("fuzz-input.bin");
  return 0;
}
