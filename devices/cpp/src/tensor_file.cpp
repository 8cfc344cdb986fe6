#include "exportloss/tensor_file.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "exportloss/error.hpp"
#include "exportloss/files.hpp"
#include "exportloss/json.hpp"
#include "exportloss/limits.hpp"

namespace exportloss {
namespace {

constexpr std::size_t length_size = 8;  // bytes of the header's length
constexpr const char* metadata = "__metadata__";

std::size_t width_of(const std::string& dtype) {
  for (const char* name : {"F64", "I64", "U64"}) {
    if (dtype == name) return 8;
  }
  for (const char* name : {"F32", "I32", "U32"}) {
    if (dtype == name) return 4;
  }
  for (const char* name : {"F16", "BF16", "I16", "U16"}) {
    if (dtype == name) return 2;
  }
  for (const char* name : {"I8", "U8", "BOOL"}) {
    if (dtype == name) return 1;
  }
  throw Error(text("a tensor in it is ", excerpt(dtype)));
}

std::uint64_t not_negative(const Json& value) {
  const std::int64_t number = value.integer();
  if (number < 0) throw Error("a shape or offset in it is not an integer >= 0");
  return static_cast<std::uint64_t>(number);
}

struct Span {
  std::uint64_t start = 0, end = 0;  // bytes
};

StoredTensor read_entry(const Json& entry, ByteView values, Span& span) {
  if (entry.object().size() != 3) throw Error("a tensor in it has other keys than three");
  StoredTensor tensor;
  tensor.dtype = entry.at("dtype").string();
  for (const Json& side : entry.at("shape").array()) {
    tensor.shape.push_back(static_cast<std::int64_t>(not_negative(side)));
  }
  if (tensor.shape.size() > limits::dimensions) {
    throw Error("a tensor in it has too many dimensions");
  }
  const Json::Array& offsets = entry.at("data_offsets").array();
  if (offsets.size() != 2) throw Error("a tensor in it has other offsets than two");
  span = {not_negative(offsets[0]), not_negative(offsets[1])};
  if (span.end < span.start || span.end > values.size()) {
    throw Error(text("it is truncated: a tensor ends at byte ", span.end, " of ", values.size()));
  }
  const std::uint64_t size = span.end - span.start;
  if (elements(tensor.shape) * width_of(tensor.dtype) != size) {
    throw Error(text("a tensor in it has ", size, " bytes, which is not what its shape needs"));
  }
  tensor.content =
      values.part(static_cast<std::size_t>(span.start), static_cast<std::size_t>(size));
  return tensor;
}

// The tensors cover the values without gap or overlap.
void check_cover(std::vector<Span> spans, std::size_t size) {
  std::sort(spans.begin(), spans.end(), [](const Span& one, const Span& other) {
    return std::pair(one.start, one.end) < std::pair(other.start, other.end);
  });
  std::uint64_t end = 0;
  for (const Span& span : spans) {
    if (span.start != end) throw Error("a tensor does not begin where the one before it ends");
    end = span.end;
  }
  if (end != size) throw Error(text("its values have ", size, " bytes, expected ", end));
}

TensorFile parse(ByteView content) {
  if (content.size() < length_size) {
    throw Error(text("it is truncated: it has ", content.size(), " bytes"));
  }
  const std::uint64_t length = read_u64(content);
  if (length > limits::header_bytes) {
    throw Error(text("its header has ", length, " bytes, expected at most ", limits::header_bytes));
  }
  if (length > content.size() - length_size) {
    throw Error(
        text("it is truncated: it has ", content.size(), " bytes, its header alone ", length));
  }
  const std::size_t start = length_size + static_cast<std::size_t>(length);
  const Json header =
      Json::parse(content.part(length_size, static_cast<std::size_t>(length)).text());
  const ByteView values = content.part(start, content.size() - start);
  if (header.object().size() > limits::tensors + 1) throw Error("it has too many tensors");
  TensorFile file;
  std::vector<Span> spans;
  for (const auto& [name, entry] : header.object()) {
    if (name == metadata) {
      for (const auto& [key, value] : entry.object()) file.about[key] = value.string();
      continue;
    }
    spans.emplace_back();
    file.tensors.emplace(name, read_entry(entry, values, spans.back()));
  }
  check_cover(std::move(spans), values.size());
  return file;
}

}  // namespace

TensorFile parse_tensor_file(ByteView content, const std::string& where) {
  try {
    return parse(content);
  } catch (const Error& error) {
    throw Error(
        text(where, " is not a readable training state: ", error.what(), "; copy the file again"),
        Reason::unreadable);
  }
}

Bytes tensor_file_header(const TensorFile& file) {
  std::string header = text("{", json_string(metadata), ":{");
  for (const auto& [key, value] : file.about) {
    if (header.back() != '{') header += ',';
    header += json_string(key) + ':' + json_string(value);
  }
  header += '}';
  std::size_t end = 0;
  for (const auto& [name, tensor] : file.tensors) {
    header += ',' + json_string(name) + ":{\"dtype\":" + json_string(tensor.dtype) + ",\"shape\":[";
    for (std::size_t i = 0; i < tensor.shape.size(); ++i) {
      header += (i > 0 ? "," : "") + std::to_string(tensor.shape[i]);
    }
    header += text("],\"data_offsets\":[", end, ',', end + tensor.content.size(), "]}");
    end += tensor.content.size();
  }
  header += '}';
  header.resize((header.size() + length_size - 1) / length_size * length_size, ' ');
  const auto length = u64_bytes(header.size());
  Bytes bytes;
  bytes.reserve(length.size() + header.size());
  for (const std::uint8_t byte : length) bytes.push_back(byte);
  append(bytes, ByteView(header));
  return bytes;
}

void write_tensor_file(const std::filesystem::path& path, const TensorFile& file) {
  const Bytes header = tensor_file_header(file);
  std::vector<ByteView> parts{header};
  for (const auto& [name, tensor] : file.tensors) parts.push_back(tensor.content);
  write_file(path, parts);
}

}  // namespace exportloss
