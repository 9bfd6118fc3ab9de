// What libtorch's Rust bindings leave out: operations with a way back of their own, and whether gradients are wanted.

#include <ATen/core/grad_mode.h>
#include <ATen/ops/native_group_norm_backward.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <exception>
#include <stdexcept>

namespace {

using torch::autograd::Node;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The gradient of the result in, that of the input out; null if it failed.
using Backward = at::Tensor* (*)(void* data, at::Tensor* gradient);
using Drop = void (*)(void* data);

// One input, one result; the way back is a closure of the caller's.
class ClosureNode final : public Node {
 public:
  ClosureNode(torch::autograd::edge_list&& edges, void* data, Backward backward, Drop drop)
      : Node(std::move(edges)), data_(data), backward_(backward), drop_(drop) {}

  ~ClosureNode() override { release_variables(); }

  variable_list apply(variable_list&& gradients) override {
    if (data_ == nullptr) {
      throw std::runtime_error("what the way back reads was freed: it can be walked once");
    }
    if (!gradients[0].defined()) {
      return {Variable()};
    }
    // Each side owns what it is handed.
    at::Tensor* result = backward_(data_, new at::Tensor(gradients[0]));
    if (result == nullptr) {
      throw std::runtime_error("an operation's way back failed");
    }
    Variable gradient = std::move(*result);
    delete result;
    return {std::move(gradient)};
  }

  void release_variables() override {
    if (data_ != nullptr) {
      drop_(data_);
      data_ = nullptr;
    }
  }

  std::string name() const override { return "ClosureNode"; }

 private:
  void* data_;
  Backward backward_;
  Drop drop_;
};

template <typename F>
at::Tensor* caught(F&& compute) {
  try {
    return new at::Tensor(compute());
  } catch (const std::exception&) {
    return nullptr;
  }
}

}  // namespace

extern "C" {

int ipa_grad_enabled() { return at::GradMode::is_enabled() ? 1 : 0; }

// Makes `output`, computed of `input` without gradients, a result whose way back is the closure. Owns `data`.
int ipa_set_backward(at::Tensor* output, const at::Tensor* input, void* data, Backward backward, Drop drop) {
  std::shared_ptr<Node> node;
  try {
    node = std::shared_ptr<Node>(
        new ClosureNode(torch::autograd::collect_next_edges(*input), data, backward, drop),
        torch::autograd::deleteNode);
    // A view of what was computed is a tensor of its own for the graph.
    *output = output->tensor_data();
    torch::autograd::set_history(*output, node);
    return 1;
  } catch (const std::exception&) {
    if (node == nullptr) {
      drop(data);
    }
    return 0;
  }
}

// The gradient of what a group norm reads; `mean` and `rstd` are `[batch, groups]`. Null if it failed.
at::Tensor* ipa_group_norm_backward(
    const at::Tensor* gradient,
    const at::Tensor* input,
    const at::Tensor* mean,
    const at::Tensor* rstd,
    const at::Tensor* weight,
    int64_t groups) {
  return caught([&] {
    const int64_t batch = input->size(0), channels = input->size(1);
    const int64_t positions = input->numel() / (batch * channels);
    return std::get<0>(at::native_group_norm_backward(
        gradient->contiguous(), *input, *mean, *rstd, *weight, batch, channels, positions, groups, {true, false, false}));
  });
}

}  // extern "C"
