// CUDA graphs, which libtorch's Rust bindings leave out.
//
// Programs are linked with libtorch's CPU parts alone, whose headers for CUDA want the CUDA toolkit's beside them. So the
// functions are looked up by name in the libraries that are loaded already, and called by the signatures that libtorch 2.11's
// ATen/cuda/CUDAGraph.h and c10/cuda/CUDAStream.h give them; so far on Linux, whose calling convention is known here.

#if defined(__linux__)
#include <dlfcn.h>
#endif

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>

namespace {

// `MempoolId_t`, a pair of numbers, and `CUDAStream`, a device and a number: two words, handed over in registers.
struct Words {
  uint64_t first;
  uint64_t second;
};

constexpr int kThreadLocal = 1;  // cudaStreamCaptureModeThreadLocal

// Larger than any `CUDAGraph` so far, which has under 200 bytes.
struct alignas(64) Storage {
  unsigned char bytes[1024];
};

struct Functions {
  void (*construct)(void* graph, bool keep_graph) = nullptr;
  void (*destroy)(void* graph) = nullptr;
  void (*begin)(void* graph, Words pool, int mode) = nullptr;
  void (*end)(void* graph) = nullptr;
  void (*replay)(void* graph) = nullptr;
  Words (*pool)(void* graph) = nullptr;
  Words (*new_stream)(bool is_high_priority, int8_t device) = nullptr;
  Words (*current_stream)(int8_t device) = nullptr;
  void (*set_stream)(Words stream) = nullptr;
  void* (*handle)(const Words* stream) = nullptr;
  bool are_there = false;

#if defined(__linux__)
  Functions() {
    void* torch = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    void* c10 = dlopen("libc10_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    are_there = torch != nullptr && c10 != nullptr &&                                                              //
                find(torch, "_ZN2at4cuda9CUDAGraphC1Eb", construct) &&                                             //
                find(torch, "_ZN2at4cuda9CUDAGraphD1Ev", destroy) &&                                               //
                find(torch, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode", begin) &&   //
                find(torch, "_ZN2at4cuda9CUDAGraph11capture_endEv", end) &&                                        //
                find(torch, "_ZN2at4cuda9CUDAGraph6replayEv", replay) &&                                           //
                find(torch, "_ZN2at4cuda9CUDAGraph4poolEv", pool) &&                                               //
                find(c10, "_ZN3c104cuda17getStreamFromPoolEba", new_stream) &&                                     //
                find(c10, "_ZN3c104cuda20getCurrentCUDAStreamEa", current_stream) &&                               //
                find(c10, "_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE", set_stream) &&                   //
                find(c10, "_ZNK3c104cuda10CUDAStream6streamEv", handle);
  }

  template <typename Function>
  static bool find(void* library, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(library, name));
    return function != nullptr;
  }
#endif
};

const Functions& functions() {
  static const Functions found;
  return found;
}

constexpr char kNotThere[] = "this libtorch has no CUDA graphs, or they are another version's";

// Where a recording could not be ended, libtorch's allocator goes on asking the graph where memory is to come from: that graph
// has to stay, and there are to be no more.
std::atomic<bool> is_broken{false};

struct Graph {
  Storage storage;
  bool is_broken;
  Words stream;  // work is recorded on
  Words before;  // current until then
};

struct Message {
  char* text;
  size_t capacity;

  void set(const char* what) const {
    std::strncpy(text, what, capacity - 1);
    text[capacity - 1] = '\0';
  }
};

// 1, or 0 with a message.
template <typename Call>
int guarded(Message message, Call call) {
  try {
    call();
    return 1;
  } catch (const std::exception& error) {
    message.set(error.what());
  } catch (...) {
    message.set("an error without a message");
  }
  return 0;
}

}  // namespace

extern "C" {

// What this thread's work on a card is told to, for CUDA's own interfaces.
int ipa_current_stream(int device, void** handle, char* text, size_t capacity) {
  const Message message{text, capacity};
  if (!functions().are_there) {
    message.set(kNotThere);
    return 0;
  }
  return guarded(message, [&] {
    const Words stream = functions().current_stream(static_cast<int8_t>(device));
    *handle = functions().handle(&stream);
  });
}

// Null, with a message, if this libtorch has no CUDA graphs. What is recorded with another graph's memory in mind uses its
// pool and its stream: blocks are not shared between streams.
Graph* ipa_graph_new(int device, const Graph* like, char* text, size_t capacity) {
  const Message message{text, capacity};
  if (!functions().are_there) {
    message.set(kNotThere);
    return nullptr;
  }
  if (is_broken) {
    message.set("a recording failed in this process before");
    return nullptr;
  }
  Graph* graph = new (std::nothrow) Graph{};
  if (graph == nullptr) {
    message.set("no memory");
    return nullptr;
  }
  const auto construct = [&] {
    graph->stream = like != nullptr ? like->stream : functions().new_stream(false, static_cast<int8_t>(device));
    functions().construct(&graph->storage, false);
  };
  if (guarded(message, construct) == 0) {
    delete graph;
    return nullptr;
  }
  return graph;
}

void ipa_graph_delete(Graph* graph) {
  if (graph->is_broken) {
    return;
  }
  char ignored[1];
  guarded(Message{ignored, 1}, [&] { functions().destroy(&graph->storage); });
  delete graph;
}

// From here on this thread's work is recorded and not done.
int ipa_graph_begin(Graph* graph, int device, Graph* like, char* text, size_t capacity) {
  return guarded(Message{text, capacity}, [&] {
    graph->before = functions().current_stream(static_cast<int8_t>(device));
    const Words pool = like != nullptr ? functions().pool(&like->storage) : Words{0, 0};
    functions().set_stream(graph->stream);
    try {
      functions().begin(&graph->storage, pool, kThreadLocal);
    } catch (...) {
      functions().set_stream(graph->before);
      throw;
    }
  });
}

int ipa_graph_end(Graph* graph, char* text, size_t capacity) {
  const int ended = guarded(Message{text, capacity}, [&] { functions().end(&graph->storage); });
  if (ended == 0) {
    graph->is_broken = true;
    is_broken = true;
  }
  char ignored[1];
  guarded(Message{ignored, 1}, [&] { functions().set_stream(graph->before); });
  return ended;
}

int ipa_graph_replay(Graph* graph, char* text, size_t capacity) {
  return guarded(Message{text, capacity}, [&] { functions().replay(&graph->storage); });
}
}
