#include "parallel.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>

namespace ck {
namespace {

struct Buffer {
  float* data = nullptr;
  size_t floats = 0;
  ~Buffer() { std::free(data); }
};

// One call's tasks; threads take the next index until there are none.
struct Job {
  Task task = nullptr;
  void* user = nullptr;
  size_t total = 0;
  std::atomic<size_t> next{0};
  std::atomic<bool> out_of_memory{false};

  void run() {
    for (size_t i; (i = next.fetch_add(1)) < total;) {
      try {
        task(user, i);
      } catch (...) {
        out_of_memory = true;
      }
    }
  }
};

// Threads that wait for a job. One caller at a time has them; they live as long as the process.
class Threads {
 public:
  std::mutex callers;  // held while a job runs

  void run(Job& job, size_t helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (count_ < helpers) {
        try {
          std::thread(&Threads::wait_for_jobs, this, count_).detach();
        } catch (const std::system_error&) {
          break;  // fewer threads, the same result
        }
        count_++;
      }
      job_ = &job;
      helpers_ = helpers < count_ ? helpers : count_;
      running_ = helpers_;
      generation_++;
    }
    wake_.notify_all();
    job.run();
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return running_ == 0; });
  }

 private:
  void wait_for_jobs(size_t mine) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (uint64_t seen = 0;;) {
      wake_.wait(lock, [&] { return generation_ != seen; });
      seen = generation_;
      if (mine >= helpers_) continue;
      Job* job = job_;
      lock.unlock();
      job->run();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  size_t count_ = 0, helpers_ = 0, running_ = 0;
  uint64_t generation_ = 0;
};

std::atomic<Threads*> threads_of_process{nullptr};

// Never destroyed: its threads may still wait when the process ends. A forked child has none of them and starts anew.
Threads& library_threads() {
  static const bool forks_are_seen = [] {
    pthread_atfork(nullptr, nullptr, [] { threads_of_process = nullptr; });
    return true;
  }();
  (void)forks_are_seen;
  Threads* found = threads_of_process;
  if (!found) {
    auto* fresh = new Threads;
    if (threads_of_process.compare_exchange_strong(found, fresh)) return *fresh;
    delete fresh;
  }
  return *found;
}

}  // namespace

float* scratch(size_t floats) {
  thread_local Buffer buffer;
  if (buffer.floats < floats) {
    std::free(buffer.data);
    buffer.floats = 0;
    const size_t bytes = (floats * sizeof(float) + 4095) / 4096 * 4096;
    buffer.data = static_cast<float*>(std::aligned_alloc(4096, bytes));
    if (!buffer.data) throw std::bad_alloc();
    buffer.floats = bytes / sizeof(float);
  }
  return buffer.data;
}

void parallel_for(const ck_pool* pool, int64_t threads, size_t total, Task task, void* user) {
  Job job;
  job.task = task, job.user = user, job.total = total;
  if (pool && total > 1) {
    pool->parallel_for(
        pool->ctx,
        [](void* found, size_t index) {
          Job& job = *static_cast<Job*>(found);
          try {
            job.task(job.user, index);
          } catch (...) {
            job.out_of_memory = true;
          }
        },
        total, &job);
  } else if (threads > 1 && total > 1) {
    Threads& library = library_threads();
    std::unique_lock<std::mutex> mine(library.callers, std::try_to_lock);
    if (mine.owns_lock())
      library.run(job, (total < static_cast<size_t>(threads) ? total : static_cast<size_t>(threads)) - 1);
    else
      job.run();
  } else {
    job.run();
  }
  if (job.out_of_memory) throw std::bad_alloc();
}

}  // namespace ck
