//! Gated activations.

use tch::{Device, Tensor};

use crate::autograd::{is_grad_enabled, is_wanted, with_backward};
use crate::cuda;

/// `value · gelu(gate)` of `[.., value; gate]` (arXiv:2002.05202, GEGLU).
///
/// Where gradients are wanted on a CPU, the way back keeps `projected` alone.
///
/// # Shapes
/// - `projected`: `[.., 2 · width]`; result: `[.., width]`
pub fn geglu(projected: &Tensor) -> Tensor {
    match is_wanted(projected) {
        true if projected.device() == Device::Cpu => {}
        true => {
            let [value, gate] = halves(projected);
            return value * gate.gelu("none");
        }
        false => return cuda::geglu(projected).unwrap_or_else(|| gated(projected)),
    }
    with_backward(projected, |projected| {
        let kept = projected.shallow_clone();
        (gated(projected), move |gradient: &Tensor| gradient_of_projected(&kept, gradient))
    })
}

fn gated(projected: &Tensor) -> Tensor {
    let [value, gate] = halves(projected);
    scaled(gate.gelu("none"), &value)
}

/// `factor · value`, in the memory of `factor`.
fn scaled(mut factor: Tensor, value: &Tensor) -> Tensor {
    debug_assert!(!is_grad_enabled() || !factor.requires_grad());
    factor.g_mul_(value)
}

fn gradient_of_projected(projected: &Tensor, gradient: &Tensor) -> Tensor {
    let [value, gate] = halves(projected);
    let of_projected = projected.empty_like();
    let [mut of_value, of_gate] = halves(&of_projected);
    // In place: these are the largest tensors there are.
    let _ = gate.gelu_out(&of_value, "none");
    let _ = of_value.g_mul_(gradient);
    let _ = gradient.mul_out(&of_gate, &value);
    let _ = gate.gelu_backward_grad_input(&of_gate, &of_gate, "none");
    of_projected
}

fn halves(projected: &Tensor) -> [Tensor; 2] {
    let width = projected.size().last().expect("features have sizes") / 2;
    [projected.narrow(-1, 0, width), projected.narrow(-1, width, width)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Draws;

    #[test]
    fn it_is_the_product_and_so_is_its_gradient() {
        let projected = Draws::seeded(0).normal(&[2, 3, 10]);
        let way = |gate: &dyn Fn(&Tensor) -> Tensor| {
            let projected = projected.copy().set_requires_grad(true);
            let result = gate(&(&projected * 2.0));
            (&result * Draws::seeded(1).normal(&result.size())).sum(None).backward();
            (result.detach(), projected.grad())
        };
        let apart = way(&|projected| {
            let [value, gate] = halves(projected);
            value * gate.gelu("none")
        });
        let together = way(&geglu);
        assert_eq!(together.0, apart.0);
        assert!((together.1 - apart.1).abs().max().double_value(&[]) < 1e-6);
        assert_eq!(tch::no_grad(|| geglu(&(&projected * 2.0))), apart.0);
    }
}
