#include "dataset.hpp"

#include <algorithm>
#include <functional>
#include <iterator>
#include <random>
#include <utility>

using namespace exportloss;

namespace {

std::size_t image_bytes(const Manifest& manifest) {
  return elements({3, manifest.image_size.height, manifest.image_size.width});
}

// Mirrors an image and its labels from left to right.
Sample mirrored(Sample sample, std::int64_t width) {
  for (auto row = sample.canvas.begin(); row != sample.canvas.end(); row += width) {
    std::reverse(row, row + width);
  }
  for (Label& label : sample.labels) label.x = 1 - label.x;
  return sample;
}

void add(Batch& batch, const Sample& sample, std::size_t place) {
  batch.images.insert(batch.images.end(), sample.canvas.begin(), sample.canvas.end());
  for (const Label& label : sample.labels) {
    batch.targets.push_back(
        {static_cast<double>(place), label.category, label.x, label.y, label.width, label.height});
  }
}

std::size_t below(std::mt19937_64& random, std::size_t most) {
  return static_cast<std::size_t>(random() % most);  // the same on every platform
}

}  // namespace

std::vector<Sample> read_samples(const std::filesystem::path& folder, const Manifest& manifest) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".ppm") paths.push_back(entry.path());
  }
  if (paths.empty()) {
    throw Error(text(folder.string(), " has no .ppm images; convert yours, for example with ",
                     "`mogrify -format ppm *.jpg`"));
  }
  std::sort(paths.begin(), paths.end());
  std::vector<Sample> samples;
  for (const auto& path : paths) {
    const Image image = read_ppm(path);
    const Letterbox box = Letterbox::fit(image.size, manifest.image_size, true, true);
    Sample sample{path.filename().string(), Bytes(image_bytes(manifest)), {}};
    place_image(image, box, sample.canvas.data(), Shrink::area);
    auto labels = path;
    for (const Label& label :
         read_labels(labels.replace_extension(".txt"), manifest.num_classes())) {
      sample.labels.push_back(box.map_label(label));
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

void check_capacity(const std::vector<Sample>& samples, const Manifest& manifest) {
  std::vector<std::size_t> counts;
  for (const Sample& sample : samples) counts.push_back(sample.labels.size());
  std::sort(counts.begin(), counts.end(), std::greater<>());
  // A batch takes images twice if there are fewer than it has places.
  std::size_t rows = 0;
  for (std::int64_t place = 0; place < manifest.batch_size; ++place) {
    rows += counts[static_cast<std::size_t>(place) % counts.size()];
  }
  if (rows > static_cast<std::size_t>(manifest.max_targets)) {
    throw Error(text("a batch may have ", rows, " boxes, the artifacts take ", manifest.max_targets,
                     "; export with --max-targets ", rows, ", or label fewer boxes per image"));
  }
}

std::vector<Batch> shuffled_batches(const std::vector<Sample>& samples, const Manifest& manifest,
                                    std::uint64_t seed, std::int64_t epoch) {
  std::mt19937_64 random(seed * 1'000'003 + static_cast<std::uint64_t>(epoch));
  std::vector<std::size_t> order(samples.size());
  for (std::size_t index = 0; index < order.size(); ++index) {
    const std::size_t other = below(random, index + 1);
    order[index] = order[other];
    order[other] = index;
  }
  const auto batch_size = static_cast<std::size_t>(manifest.batch_size);
  std::vector<Batch> batches((samples.size() + batch_size - 1) / batch_size);
  for (std::size_t index = 0; index < batches.size() * batch_size; ++index) {
    const Sample& sample = samples[order[index % order.size()]];
    const bool mirrors = below(random, 2) == 1;
    add(batches[index / batch_size], mirrors ? mirrored(sample, manifest.image_size.width) : sample,
        index % batch_size);
  }
  return batches;
}

Metrics evaluate(TrainSession& session, const std::vector<Sample>& samples) {
  const Manifest& manifest = session.manifest();
  const auto batch_size = static_cast<std::size_t>(manifest.batch_size);
  const std::size_t columns = 5 + manifest.names.size();
  NmsOptions options;
  options.conf_thres = 0.001f;
  options.iou_thres = 0.6f;
  options.multi_label = manifest.names.size() > 1;
  const auto height = static_cast<double>(manifest.image_size.height);
  const auto width = static_cast<double>(manifest.image_size.width);
  MetricsAccumulator metrics(manifest.names.size());
  for (std::size_t start = 0; start < samples.size(); start += batch_size) {
    Batch batch;
    for (std::size_t place = 0; place < batch_size; ++place) {
      add(batch, samples[std::min(start + place, samples.size() - 1)], place);
    }
    const Predictions rows = session.evaluate(batch.images, {}, manifest.ema).predictions;
    for (std::size_t place = 0; place < batch_size && start + place < samples.size(); ++place) {
      const float* first = rows.values.data() + place * rows.rows * columns;
      check_predictions(first, rows.rows, rows.classes);
      std::vector<TrueBox> truth;
      for (const Label& label : samples[start + place].labels) {
        truth.push_back({label.category, (label.x - label.width / 2) * width,
                         (label.y - label.height / 2) * height, (label.x + label.width / 2) * width,
                         (label.y + label.height / 2) * height});
      }
      metrics.add(non_max_suppression(first, rows.rows, rows.classes, options), truth);
    }
  }
  return metrics.result();
}
