// A block's threads as a loop on the host, between barriers, and what a device would have made of their accesses.
//
// `each` runs a step for every thread, forwards and backwards in turn, so that a step that needs another thread's work
// of the same step gives a wrong answer. The exchange memory knows who touched each word since the last barrier: two
// threads, one of them writing, is a race. It also counts the passes of 32 banks that each access of a warp takes.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "calls.h"

namespace ck {

struct EmulatorCounts {
  int64_t races = 0, unwritten = 0;  // must be 0
  int64_t passes = 0, fewest = 0;    // through the banks: taken, and without any conflict
};
inline EmulatorCounts emulator_counts;

struct Word {
  float value = 0;
  int writer = -1, reader = -1;  // thread of the block; reader -2: several
  int64_t written = -1, read = -1;  // the barrier that came before
};

class ExchangeMemory {
 public:
  explicit ExchangeMemory(int words) : words_(words) {}

  void begin(int thread, int) { thread_ = thread, step_ = 0; }
  void sync() { ++epoch_; }

  float get(int at) {
    Word& w = words_.at(at);
    if (w.written < 0) ++emulator_counts.unwritten;
    if (w.written == epoch_ && w.writer != thread_) ++emulator_counts.races;
    w.reader = w.read == epoch_ && w.reader != thread_ ? -2 : thread_;
    w.read = epoch_;
    return w.value;
  }
  void put(int at, float value) {
    Word& w = words_.at(at);
    if (w.written == epoch_ && w.writer != thread_) ++emulator_counts.races;
    if (w.read == epoch_ && w.reader != thread_) ++emulator_counts.races;
    w = {value, thread_, w.reader, epoch_, w.read};
  }

  // One access of `width` floats by the present thread.
  void note(int at, int width) { log_.push_back({thread_ / 32, step_++, thread_ % 32, at, width}); }

  void count_passes() {
    std::sort(log_.begin(), log_.end(), [](const Access& a, const Access& b) {
      return a.warp != b.warp ? a.warp < b.warp : a.step != b.step ? a.step < b.step : a.lane < b.lane;
    });
    for (size_t i = 0; i < log_.size();) {
      const Access first = log_[i];
      const int share = 32 / first.width, part = first.lane / share;
      std::vector<std::vector<int>> banks(32);
      for (; i < log_.size() && log_[i].warp == first.warp && log_[i].step == first.step &&
             log_[i].lane / share == part;
           ++i) {
        for (int w = 0; w < first.width; ++w) {
          std::vector<int>& bank = banks[(log_[i].at + w) % 32];
          if (std::find(bank.begin(), bank.end(), log_[i].at + w) == bank.end()) bank.push_back(log_[i].at + w);
        }
      }
      size_t most = 0;
      for (const auto& bank : banks) most = std::max(most, bank.size());
      emulator_counts.passes += static_cast<int64_t>(most);
      ++emulator_counts.fewest;
    }
    log_.clear();
  }

 private:
  struct Access {
    int warp, step, lane, at, width;
  };
  std::vector<Word> words_;
  std::vector<Access> log_;
  int thread_ = 0, step_ = 0;
  int64_t epoch_ = 0;
};

// A row's part of the exchange memory, as elements of `width` floats.
template <class T, int width>
struct EmulatedView {
  ExchangeMemory* memory;
  int base;

  T get(int i) const {
    memory->note(base + i * width, width);
    float v[width];
    for (int w = 0; w < width; ++w) v[w] = memory->get(base + i * width + w);
    T found;
    __builtin_memcpy(&found, v, sizeof found);
    return found;
  }
  void put(int i, T value) const {
    memory->note(base + i * width, width);
    float v[width];
    __builtin_memcpy(v, &value, sizeof value);
    for (int w = 0; w < width; ++w) memory->put(base + i * width + w, v[w]);
  }
};

template <class P, template <class> class Lane>
class EmulatedBlock {
 public:
  EmulatedBlock(int64_t index, int64_t blocks)
      : index_(index), blocks_(blocks), memory_(P::teams * P::pitch * 2), lanes_(P::threads) {
    for (int i = 0; i < P::threads; ++i) lanes_[i].t = i % P::T, lanes_[i].team = i / P::T;
  }

  int64_t first() const { return index_; }
  int64_t count() const { return blocks_; }
  int64_t team(const Lane<P>& lane) const { return index_ * P::teams + lane.team; }
  EmulatedView<Complex, 2> points(const Lane<P>& lane) { return {&memory_, lane.team * P::pitch * 2}; }
  EmulatedView<float, 1> floats(const Lane<P>& lane) { return {&memory_, lane.team * P::pitch * 2}; }
  EmulatedView<Four, 4> fours(const Lane<P>& lane) { return {&memory_, lane.team * P::pitch * 2}; }

  template <class Step>
  void each(Step step) {
    backwards_ = !backwards_;
    for (int i = 0; i < P::threads; ++i) {
      const int thread = backwards_ ? P::threads - 1 - i : i;
      memory_.begin(thread, 0);
      step(lanes_[thread]);
    }
    memory_.count_passes();
  }
  void sync() { memory_.sync(); }

 private:
  int64_t index_, blocks_;
  bool backwards_ = false;
  ExchangeMemory memory_;
  std::vector<Lane<P>> lanes_;
};

struct Emulator {
  int64_t blocks = 2;  // that a pretended device runs at a time

  template <class P>
  int64_t acdc_teams() const { return blocks * P::teams; }
  template <class P>
  int64_t fastfood_teams() const { return blocks * P::teams; }

  template <class P, template <class> class Lane, class Kernel>
  int launch(int64_t count, Kernel kernel) const {
    for (int64_t i = 0; i < count; ++i) {
      EmulatedBlock<P, Lane> block(i, count);
      kernel(block);
    }
    return CK_CUDA_OK;
  }

  template <class P>
  int64_t grid(int64_t rows) const { return std::min(blocks, (rows + P::teams - 1) / P::teams); }

  template <class P>
  int acdc_forward(const AcdcTask& task, const Rows& x, const Rows& y) const {
    return launch<P, AcdcLane>(grid<P>(task.rows), [&](auto& block) { ck::acdc_forward<P>(block, task, x, y); });
  }
  template <class P>
  int acdc_backward(const AcdcTask& task, const AcdcBackward& back) const {
    return launch<P, AcdcLane>(back.teams / P::teams, [&](auto& block) { ck::acdc_backward<P>(block, task, back); });
  }
  template <class P>
  int fastfood_forward(const FastfoodTask& task, const Rows& x, const Rows& y) const {
    return launch<P, HadamardLane>(grid<P>(task.rows * task.blocks),
                                   [&](auto& block) { ck::fastfood_forward<P>(block, task, x, y); });
  }
  template <class P>
  int fastfood_backward(const FastfoodTask& task, const FastfoodBackward& back) const {
    return launch<P, HadamardLane>(back.teams / P::teams,
                                   [&](auto& block) { ck::fastfood_backward<P>(block, task, back); });
  }
  template <class P>
  int fwht(int64_t rows, const Rows& x, const Rows& y) const {
    return launch<P, HadamardLane>(grid<P>(rows), [&](auto& block) { ck::fwht<P>(block, rows, x, y); });
  }
  int bend(const Bend& task, int dtype) const {
    for (int64_t at = 0; at < task.rows * task.width; ++at) ck::bend(task, dtype, at);
    return CK_CUDA_OK;
  }
  int upload(const void* host, int64_t bytes, void** device) const {
    *device = std::aligned_alloc(256, static_cast<size_t>((bytes + 255) / 256 * 256));
    return copy(*device, host, bytes);
  }
  int release(void* device) const {
    std::free(device);
    return CK_CUDA_OK;
  }
  int copy(void* to, const void* from, int64_t bytes) const {
    std::memcpy(to, from, static_cast<size_t>(bytes));
    return CK_CUDA_OK;
  }
  int probe(int64_t* shared_bytes, int64_t* longest_acdc) const {
    *shared_bytes = 128 * 1024;
    *longest_acdc = longest_acdc_for(*shared_bytes, true);
    return CK_CUDA_OK;
  }
  int reduce(const float* sums, int64_t stride, int64_t teams, int64_t count, float* to) const {
    for (int64_t i = 0; i < count; ++i) {
      to[i] = 0;
      for (int64_t team = 0; team < teams; ++team) to[i] += sums[team * stride + i];
    }
    return CK_CUDA_OK;
  }
};

}  // namespace ck
