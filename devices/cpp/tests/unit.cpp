// What holds for each part by itself; the numbers are compared with Python's elsewhere.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "check.hpp"
#include "exportloss/exportloss.hpp"
#include "exportloss/file_format.hpp"
#include "exportloss/files.hpp"
#include "exportloss/json.hpp"
#include "exportloss/onnx_file.hpp"
#include "exportloss/protobuf.hpp"
#include "exportloss/sha256.hpp"

namespace {

using namespace exportloss;
using check::Report;

// Of FIPS 180-4's examples.
void test_sha256(Report& report) {
  const auto digest = [](const std::string& value) { return sha256(ByteView(value)); };
  report.that(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
              "sha256 of nothing");
  report.that(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
              "sha256 of abc");
  const std::string million(1'000'000, 'a');
  report.that(digest(million) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
              "sha256 of a million a");
  for (std::size_t size = 0; size < 130; ++size) {
    const std::string whole = million.substr(0, size);
    Sha256 pieces;
    for (std::size_t at = 0; at < size; at += 7)
      pieces.update(ByteView(whole).part(at, std::min<std::size_t>(7, size - at)));
    report.that(pieces.hex() == digest(whole), "sha256 in pieces of " + std::to_string(size));
  }
}

void test_json(Report& report) {
  const Json value = Json::parse(
      " {\"b\": [1, -2.5, 1e3, true, null], \"a\": \"\\u00e9\\ud83d\\ude00\\n\", \"\": {}} ");
  report.that(value.at("b").array().at(0).integer() == 1, "an integer");
  report.that(value.at("b").array().at(1).number() == -2.5, "a fraction");
  report.that(value.at("b").array().at(2).whole() == 1000, "a whole number");
  report.that(value.at("a").string() == "\xc3\xa9\xf0\x9f\x98\x80\n", "escapes");
  report.that(value.find("c") == nullptr && value.find("") != nullptr, "members");
  report.that(json_string("\"\\\n\x01\xc3\xa9") == "\"\\\"\\\\\\n\\u0001\xc3\xa9\"", "a text");
  const std::string deep(Json::deepest + 1, '[');
  const std::string much(Json::most_values * 2 + 2, '1');
  for (const auto& [document, said] : std::initializer_list<std::pair<std::string, std::string>>{
           {"", "no value"},
           {"01", "no value"},
           {"1.", "digit after"},
           {"1e", "exponent"},
           {"NaN", "no value"},
           {"-Infinity", "no value"},
           {"[1,]", "no value"},
           {"{\"a\":1,}", "no name"},
           {"{\"a\":1,\"a\":2}", "twice"},
           {"[1] 2", "after its end"},
           {"\"\\ud83d\"", "surrogate"},
           {"\"\\ude00\"", "surrogate"},
           {"\"\\x\"", "unknown escape"},
           {"\"\n\"", "control character"},
           {"\"\xff\"", "not UTF-8"},
           {"\"\xc0\x80\"", "not UTF-8"},
           {"\"\xed\xa0\x80\"", "not UTF-8"},
           {"9223372036854775808", "64 bits"},
           {"1e999", "out of range"},
           {deep + deep, "deep"}}) {
    report.refuses("JSON " + document.substr(0, 20), said, [&] { Json::parse(document); });
  }
  std::string long_list = "[0";
  for (std::size_t i = 0; i < Json::most_values; ++i) long_list += ",0";
  report.refuses("a long list", "values", [&] { Json::parse(long_list + "]"); });
  report.refuses("a text as a number", "a string where a number",
                 [] { Json::parse("\"1\"").number(); });
  report.refuses("2^53 + 1", "2^53", [] { Json::parse("9007199254740993").whole(); });
}

void test_formats(Report& report) {
  report.that(format_number("exportloss", "exportloss/12") == 12, "a format");
  for (const char* found : {"exportloss", "exportloss/", "exportloss/0", "exportloss/02",
                            "exportloss/2 ", "exportloss/1234567", "exportloss-state/1", "2"}) {
    report.that(!format_number("exportloss", found), std::string("no format: ") + found);
  }
  report.that(excerpt("a\x1b[31m\xc3") == "'a\\x1b[31m\\xc3'", "control characters are escaped");
  report.that(excerpt("abcdef", 3) == "'abc...'", "an excerpt is short");
}

void test_protobuf(Report& report) {
  const auto read = [](const Bytes& message) {
    FieldReader reader(message);
    for (Field field; reader.next(field);) continue;
  };
  Bytes message;
  append_number(message, 1, ~std::uint64_t{0});
  append_content(message, 7, ByteView("text"));
  FieldReader reader(message);
  Field field;
  report.that(reader.next(field) && field.field == 1 && field.number == ~std::uint64_t{0},
              "a number of 64 bits");
  report.that(reader.next(field) && field.content.text() == "text", "a content");
  report.that(!reader.next(field), "the end");
  report.refuses("field 0", "field number 0", [&] { read({0x02, 0x00}); });
  report.refuses("a group", "wire type 3", [&] { read({0x0b}); });
  report.refuses("truncated", "too late", [&] { read({0x0a, 0x05, 0x61}); });
  report.refuses("an overlong number", "no writer does", [&] { read({0x08, 0x80, 0x00}); });
  report.refuses("more than 64 bits", "no writer does", [&] {
    read({0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02});
  });
  report.refuses("no end", "no number", [&] { read({0x08, 0xff}); });
}

Bytes wrapped(std::initializer_list<std::uint64_t> fields, Bytes inner) {
  for (const std::uint64_t field : fields) {
    Bytes outer;
    append_content(outer, field, inner);
    inner = std::move(outer);
  }
  return inner;
}

void test_models(Report& report) {
  Bytes external, location, operation;
  append_content(external, 13, ByteView("x"));
  append_number(location, 14, 1);
  append_content(operation, 4, ByteView("EPContext"));
  report.refuses("external data", "external data", [&] {
    check_model(wrapped({5, 7}, external), "it");
  });
  report.refuses("external data in a subgraph", "external data", [&] {
    check_model(wrapped({5, 6, 5, 1, 7}, location), "it");
  });
  report.refuses("compiled code", "EPContext", [&] {
    check_model(wrapped({1, 7}, operation), "it");
  });
  Bytes nested;
  for (int depth = 0; depth < 40; ++depth) nested = wrapped({6, 5, 1}, nested);
  report.refuses("nested messages", "deep", [&] { check_model(wrapped({7}, nested), "it"); });
  check_model(wrapped({8}, {}), "it");
}

void test_images(Report& report) {
  const Image image = parse_ppm(ByteView("P6 # two\n2 1\n255\nabcdef"), "it");
  report.that(image.size == Size{1, 2} && image.pixels.size() == 6 && image.pixels[5] == 'f',
              "an image");
  for (const auto& [content, said] : std::initializer_list<std::pair<std::string, std::string>>{
           {"P5 2 1 255 abcdef", "no binary PPM"},
           {"P6 2 1 255 abcde", "expected 17"},
           {"P6 2 1 255 abcdefg", "expected 17"},
           {"P6 2 1 65535 abcdef", "65535"},
           {"P6 0 1 255 ", "side of 0"},
           {"P6 99999999999999999999 1 255 ", "side of"},
           {"P6 2", "no number"},
           {"P6", "no binary PPM"}}) {
    report.refuses(content, said, [&] { parse_ppm(ByteView(content), "it"); });
  }
  const auto labels =
      parse_labels(ByteView("\xef\xbb\xbf"
                            "1 0.5 0.5 0.25 1.00000004\r\n\n1 0.5 0.5 0.25 1\n0 0 1 .5 1e-3"),
                   2, "it");
  report.that(labels.size() == 2 && labels[0].category == 1 && labels[0].height == 1, "labels");
  for (const auto& [content, said] : std::initializer_list<std::pair<std::string, std::string>>{
           {"\n1 0.5 0.5 0.5", "it:2: 4 columns"},
           {"2 0.5 0.5 0.5 0.5", "[0, 2)"},
           {"0.5 0.5 0.5 0.5 0.5", "whole number"},
           {"1 1.1 0.5 0.5 0.5", "x 1.1"},
           {"1 0.5 0.5 0 0.5", "width 0"},
           {"1 0.5 0.5 nan 0.5", "'nan'"},
           {"1 0.5 0.5 0.5x 0.5", "'0.5x'"}}) {
    report.refuses(content, said, [&] { parse_labels(ByteView(content), 2, "it"); });
  }
}

void test_files(Report& report, const std::filesystem::path& folder) {
  const auto path = folder / "file.bin";
  write_file(path, {ByteView("old")});
  write_file(path, {ByteView("ne"), ByteView("w")});
  report.that(ByteView(read_bounded(path, 3)).text() == "new", "a file is replaced");
  report.that(!std::filesystem::exists(folder / "file.bin.partial"), "nothing is left behind");
  report.refuses("a large file", "at most 2", [&] { read_bounded(path, 2); });
  report.refuses("a folder", "regular file", [&] { read_bounded(folder, 2); });
  report.refuses("no folder", "cannot be written",
                 [&] { write_file(folder / "absent" / "file", {}); });
}

void test_ranges(Report& report) {
  Schedule::Options options;
  options.batches = 0;
  report.refuses("a schedule", "batches is 0", [&] { Schedule schedule(options); });
  options.batches = 1;
  options.config.momentum = 1;
  report.refuses("a schedule", "momentum is 1", [&] { Schedule schedule(options); });
  NmsOptions thresholds;
  thresholds.iou_thres = std::nanf("");
  report.refuses("a threshold", "iou_thres",
                 [&] { non_max_suppression(nullptr, 0, 1, thresholds); });
  report.refuses("a letterbox", "0 x 5", [] { Letterbox::fit({0, 5}, {5, 5}); });
  report.refuses("an image", "expected 12", [] { resize_linear({{2, 2}, Bytes(11)}, {1, 1}); });
  report.refuses("a larger area", "larger", [] { resize_area({{1, 1}, Bytes(3)}, {2, 1}); });
  MetricsAccumulator metrics(2);
  report.refuses("a class", "class 2", [&] { metrics.add({{0, 0, 1, 1, 0.5f, 2}}, {}); });
}

}  // namespace

int main() {
  Report report;
  const auto folder = std::filesystem::current_path() / "unit-scratch";
  std::filesystem::create_directories(folder);
  test_sha256(report);
  test_json(report);
  test_formats(report);
  test_protobuf(report);
  test_models(report);
  test_images(report);
  test_files(report, folder);
  test_ranges(report);
  std::filesystem::remove_all(folder);
  return report.finish("unit");
}
