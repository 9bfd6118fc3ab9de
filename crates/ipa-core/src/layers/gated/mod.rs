//! Gated activations.

#[cfg(target_arch = "x86_64")]
mod own;

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
    #[cfg(target_arch = "x86_64")]
    if own::suits(projected) {
        return own::gated(projected);
    }
    let [value, gate] = halves(projected);
    scaled(gate.gelu("none"), &value)
}

/// `factor · value`, in the memory of `factor`.
fn scaled(mut factor: Tensor, value: &Tensor) -> Tensor {
    debug_assert!(!is_grad_enabled() || !factor.requires_grad());
    factor.g_mul_(value)
}

fn gradient_of_projected(projected: &Tensor, gradient: &Tensor) -> Tensor {
    #[cfg(target_arch = "x86_64")]
    if own::suits(projected) {
        return own::gradient_of_projected(projected, gradient);
    }
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
    use tch::Kind;

    use super::*;
    use crate::noise::Draws;

    /// Result and gradient of `gate`.
    fn way(projected: &Tensor, gate: &dyn Fn(&Tensor) -> Tensor) -> [Tensor; 2] {
        let projected = projected.copy().set_requires_grad(true);
        let result = gate(&(&projected * 2.0));
        (&result * Draws::seeded(1).normal(&result.size()).to_kind(result.kind())).sum(None).backward();
        [result.detach(), projected.grad()]
    }

    fn apart(projected: &Tensor) -> Tensor {
        let [value, gate] = halves(projected);
        value * gate.gelu("none")
    }

    #[test]
    fn it_is_the_product_and_so_is_its_gradient() {
        // Halves that come in whole vectors, more than a thread takes at a time, and others.
        for size in [[2, 3, 10], [1, 7, 64], [2, 300, 160]] {
            let projected = Draws::seeded(0).normal(&size);
            let (together, exact) = (way(&projected, &geglu), way(&projected.to_kind(Kind::Double), &apart));
            for (found, exact) in together.iter().zip(&exact) {
                let error = (found - exact).abs().max() / exact.abs().max();
                assert!(error.double_value(&[]) < 2e-7, "{size:?}: {error}");
            }
            assert_eq!(tch::no_grad(|| geglu(&(&projected * 2.0))), together[0], "drawing is as training");
        }
    }

    #[test]
    fn far_gates_are_open_or_shut() {
        let gates = Tensor::linspace(-20, 20, 320, (Kind::Float, tch::Device::Cpu));
        let projected = Tensor::stack(&[Tensor::ones_like(&gates), gates], 0).view([1, 640]);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(
            own::suits(&projected),
            crate::kernel::Instructions::Avx2.is_there() && crate::parallel::is_shared()
        );
        let (found, exact) = (way(&projected, &geglu), way(&projected.to_kind(Kind::Double), &apart));
        for (found, exact) in found.iter().zip(&exact) {
            assert!((found - exact).abs().max().double_value(&[]) < 1e-5);
        }
        let gates = [-1e30, -30.0, -0.0, 0.0, 30.0, 1e30, f32::INFINITY, f32::NAN].repeat(2);
        let projected = Tensor::from_slice(&[[1.0; 16].as_slice(), &gates].concat());
        let found = Vec::<f32>::try_from(geglu(&projected)).expect("a vector");
        assert_eq!(found[..7], [0.0, 0.0, 0.0, 0.0, 30.0, 1e30, f32::INFINITY]);
        assert!(found[7].is_nan());
    }
}
