#include "exportloss/onnx_file.hpp"

#include <algorithm>
#include <string_view>

#include "exportloss/error.hpp"
#include "exportloss/protobuf.hpp"
#include "exportloss/sha256.hpp"

namespace exportloss {
namespace {

// Field numbers are those of onnx.proto.
constexpr std::uint64_t model_graph = 7, model_opset = 8, model_metadata = 14;
constexpr std::uint64_t opset_domain = 1, opset_version = 2;
constexpr std::uint64_t graph_initializer = 5, graph_input = 11, value_name = 1;
constexpr std::uint64_t tensor_dims = 1, tensor_type = 2, tensor_name = 8, tensor_raw = 9;
constexpr std::uint64_t tensor_external = 13, tensor_location = 14, node_operator = 4;
constexpr std::uint64_t type_float = 1;
constexpr int deepest = 100;  // levels of nested messages, as in protocol buffers' own parsers
constexpr std::string_view checksum_key = "sha256";

enum class Message { model, training, function, graph, node, attribute, sparse, tensor };

struct Child {
  Message parent;
  std::uint64_t field;
  Message kind;
};

// The fields that are messages and may contain tensors.
constexpr Child children[] = {
    {Message::model, 7, Message::graph},         {Message::model, 20, Message::training},
    {Message::model, 25, Message::function},     {Message::training, 1, Message::graph},
    {Message::training, 2, Message::graph},      {Message::function, 7, Message::node},
    {Message::function, 11, Message::attribute}, {Message::graph, 1, Message::node},
    {Message::graph, 5, Message::tensor},        {Message::graph, 15, Message::sparse},
    {Message::node, 5, Message::attribute},      {Message::attribute, 5, Message::tensor},
    {Message::attribute, 6, Message::graph},     {Message::attribute, 10, Message::tensor},
    {Message::attribute, 11, Message::graph},    {Message::attribute, 22, Message::sparse},
    {Message::attribute, 23, Message::sparse},   {Message::sparse, 1, Message::tensor},
    {Message::sparse, 2, Message::tensor},
};

void check_message(ByteView message, Message kind, int depth) {
  if (depth > deepest) throw Error(text("its messages are nested more than ", deepest, " deep"));
  FieldReader reader(message);
  Field field;
  while (reader.next(field)) {
    const bool is_content = field.kind == Field::Kind::content;
    if (kind == Message::tensor &&
        (field.field == tensor_external ||
         (field.field == tensor_location && (field.number != 0 || !field.content.empty())))) {
      throw Error("it keeps tensors in other files (external data); save it as one file");
    }
    if (kind == Message::node && field.field == node_operator && is_content &&
        field.content.text() == "EPContext") {
      throw Error(
          "it holds code compiled for a device (EPContext), which may be in other files; use the "
          "model that it was compiled from");
    }
    if (!is_content) continue;
    for (const Child& child : children) {
      if (child.parent == kind && child.field == field.field) {
        check_message(field.content, child.kind, depth + 1);
      }
    }
  }
}

std::string name_of_value(ByteView value_info) {
  std::string name;
  FieldReader reader(value_info);
  Field field;
  while (reader.next(field)) {
    if (field.field == value_name && field.kind == Field::Kind::content) {
      name += field.content.text();
    }
  }
  return name;
}

// Copies a field. Fields of fixed size, which the messages here do not have, are dropped.
void append_field(Bytes& to, const Field& field) {
  if (field.kind == Field::Kind::number) append_number(to, field.field, field.number);
  if (field.kind == Field::Kind::content) append_content(to, field.field, field.content);
}

Bytes without_inputs(ByteView graph, const std::map<std::string, ByteView>& names) {
  Bytes kept;
  FieldReader reader(graph);
  Field field;
  while (reader.next(field)) {
    const bool is_input = field.field == graph_input && field.kind == Field::Kind::content;
    if (!is_input || names.count(name_of_value(field.content)) == 0) append_field(kept, field);
  }
  return kept;
}

// Appends an initializer without copying its values more than once.
void append_initializer(Bytes& to, const std::string& name, ByteView values) {
  Bytes start;
  append_number(start, tensor_dims, values.size() / sizeof(float));
  append_number(start, tensor_type, type_float);
  append_content(start, tensor_name, ByteView(name));
  append_content_header(start, tensor_raw, values.size());
  append_content_header(to, graph_initializer, start.size() + values.size());
  append(to, start);
  append(to, values);
}

Bytes checksum_entry(std::string_view digest) {
  Bytes entry, field;
  append_content(entry, 1, ByteView(checksum_key));
  append_content(entry, 2, ByteView(digest));
  append_content(field, model_metadata, entry);
  return field;
}

}  // namespace

void check_model(ByteView model, const std::string& where) {
  try {
    check_message(model, Message::model, 0);
  } catch (const Error& error) {
    throw Error(text(where, " is not a usable graph: ", error.what()));
  }
}

std::int64_t opset_of(ByteView model) {
  std::int64_t opset = 0;
  FieldReader reader(model);
  Field field;
  while (reader.next(field)) {
    if (field.field != model_opset || field.kind != Field::Kind::content) continue;
    std::string_view domain;
    std::uint64_t version = 0;
    FieldReader entry(field.content);
    for (Field part; entry.next(part);) {
      if (part.field == opset_domain) domain = part.content.text();
      if (part.field == opset_version) version = part.number;
    }
    const bool is_default = domain.empty() || domain == "ai.onnx";
    if (is_default) opset = static_cast<std::int64_t>(version);
  }
  return opset;
}

Bytes with_initializers(ByteView model, const std::map<std::string, ByteView>& vectors) {
  Bytes result;
  FieldReader reader(model);
  Field field;
  while (reader.next(field)) {
    if (field.field == model_graph && field.kind == Field::Kind::content) {
      append_content(result, model_graph, without_inputs(field.content, vectors));
    } else {
      append_field(result, field);
    }
  }
  Bytes graph;
  for (const auto& [name, values] : vectors) append_initializer(graph, name, values);
  append_content(result, model_graph, graph);
  return result;
}

Bytes model_checksum(ByteView model) { return checksum_entry(sha256(model)); }

bool model_is_whole(ByteView content) {
  // Other writers begin a model with its first field, not with its metadata, and without such a
  // key. Either of the two identifies a file with a checksum, so no flipped bit can hide that.
  const Bytes like = checksum_entry(std::string(64, '0'));
  const ByteView found = content.part(0, std::min(like.size(), content.size()));
  if (found.empty() ||
      (found[0] != like[0] && found.text().find(checksum_key) == std::string_view::npos)) {
    return true;
  }
  if (found.size() < like.size()) return false;
  const ByteView model = content.part(like.size(), content.size() - like.size());
  const Bytes expected = model_checksum(model);
  return found.text() == ByteView(expected).text();
}

}  // namespace exportloss
