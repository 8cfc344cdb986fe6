#include "exportloss/files.hpp"

#include <fstream>
#include <system_error>

#include "exportloss/error.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#endif

namespace exportloss {
namespace {

namespace fs = std::filesystem;

// Bytes that only the operating system's memory has are lost with the power. Where there is no
// fsync, the file is complete after a crash of the process, but not after one of the machine.
bool reaches_disk([[maybe_unused]] const fs::path& path) {
#if defined(__unix__) || defined(__APPLE__)
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  const bool written = ::fsync(descriptor) == 0;
  ::close(descriptor);
  return written;
#else
  return true;
#endif
}

}  // namespace

std::string name_of(const fs::path& path) {
  std::string printable;
  for (const char character : path.u8string()) {
    const auto byte = static_cast<unsigned char>(character);
    printable += byte < 0x20 || byte == 0x7f ? '?' : character;
  }
  return printable;
}

bool is_absent(const fs::path& path) {
  std::error_code error;
  return fs::status(path, error).type() == fs::file_type::not_found;
}

Bytes read_bounded(const fs::path& path, std::uint64_t limit, Links links) {
  std::error_code error;
  const fs::file_status status =
      links == Links::follow ? fs::status(path, error) : fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) {
    throw Error(text(name_of(path), ": no such file; check the path"), Reason::missing);
  }
  if (status.type() == fs::file_type::none) {
    throw Error(text(name_of(path), ": cannot be read: ", error.message()), Reason::missing);
  }
  // A pipe would block, a device never ends.
  if (status.type() != fs::file_type::regular) {
    throw Error(text(name_of(path), ": it is not a regular file; replace it with one"),
                Reason::missing);
  }
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) throw Error(text(name_of(path), ": cannot be read: ", error.message()));
  if (size > limit) {
    throw Error(text(name_of(path), ": ", size, " bytes, expected at most ", limit,
                     "; check that it is the right file"),
                Reason::too_large);
  }
  std::ifstream file(path, std::ios::binary);
  Bytes content(static_cast<std::size_t>(size));
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(size));
  if (!file || file.peek() != std::ifstream::traits_type::eof()) {
    throw Error(text(name_of(path), ": cannot be read, or changed while it was read; try again"));
  }
  return content;
}

void write_file(const fs::path& path, const std::vector<ByteView>& parts) {
  fs::path partial = path;
  partial += ".partial";
  std::error_code error;
  {
    std::ofstream file(partial, std::ios::binary | std::ios::trunc);
    for (const ByteView part : parts) {
      file.write(reinterpret_cast<const char*>(part.data()),
                 static_cast<std::streamsize>(part.size()));
    }
    file.close();
    if (!file || !reaches_disk(partial)) {
      fs::remove(partial, error);
      throw Error(text(name_of(path),
                       " cannot be written; check that its folder exists and has space left"));
    }
  }
  fs::rename(partial, path, error);
  if (error) {
    std::error_code ignored;
    fs::remove(partial, ignored);
    throw Error(text(name_of(path), " cannot be written: ", error.message()));
  }
  reaches_disk(path.has_parent_path() ? path.parent_path() : fs::path("."));
}

}  // namespace exportloss
