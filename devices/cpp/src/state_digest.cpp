// The digest of a state, from format 2 on: counts and lengths as eight bytes, little-endian, then
// bytes. docs/format.md describes it byte by byte.
#include <cstdint>
#include <string>

#include "exportloss/sha256.hpp"
#include "exportloss/state.hpp"

namespace exportloss {
namespace {

constexpr const char* checksum_key = "sha256";

void add(Sha256& digest, std::uint64_t number) {
  const auto bytes = u64_bytes(number);
  digest.update({bytes.data(), bytes.size()});
}

void add(Sha256& digest, const std::string& value) {
  add(digest, value.size());
  digest.update(ByteView(value));
}

}  // namespace

std::string state_digest(const TensorFile& file) {
  Sha256 digest;
  add(digest, file.about.size() - file.about.count(checksum_key));
  for (const auto& [key, value] : file.about) {
    if (key == checksum_key) continue;
    add(digest, key);
    add(digest, value);
  }
  add(digest, file.tensors.size());
  for (const auto& [name, tensor] : file.tensors) {
    add(digest, name);
    add(digest, tensor.dtype);
    add(digest, tensor.shape.size());
    for (const std::int64_t side : tensor.shape) add(digest, static_cast<std::uint64_t>(side));
    digest.update(tensor.content);
  }
  return digest.hex();
}

}  // namespace exportloss
