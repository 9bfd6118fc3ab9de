//! Operations with a way back of their own: what libtorch would keep for gradients of frozen weights is not kept.

use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

type Backward = unsafe extern "C" fn(*mut c_void, *mut C_tensor) -> *mut C_tensor;
type Discard = unsafe extern "C" fn(*mut c_void);

// `shim.cpp`
unsafe extern "C" {
    fn ipa_grad_enabled() -> c_int;
    fn ipa_set_backward(
        output: *mut C_tensor,
        input: *const C_tensor,
        data: *mut c_void,
        backward: Backward,
        discard: Discard,
    ) -> c_int;
    fn ipa_group_norm_backward(
        gradient: *const C_tensor,
        input: *const C_tensor,
        mean: *const C_tensor,
        rstd: *const C_tensor,
        weight: *const C_tensor,
        groups: i64,
    ) -> *mut C_tensor;
}

/// Whether what is computed on this thread is to have gradients.
pub(crate) fn is_grad_enabled() -> bool {
    // SAFETY: reads a flag of the thread's.
    unsafe { ipa_grad_enabled() != 0 }
}

/// Whether gradients will be asked for of what is computed of `input`.
pub(crate) fn is_wanted(input: &Tensor) -> bool {
    input.requires_grad() && is_grad_enabled()
}

/// `forward(input)`, whose way back is `backward`: from the gradient of the result to that of `input`, once.
///
/// Both are called without gradients being recorded; nothing else reads or writes what `forward` returns. What `backward`
/// captures is kept until then. A `backward` that panics is an error of the whole way back.
///
/// # Panics
/// If libtorch has no memory left for the graph.
pub(crate) fn with_backward<B>(input: &Tensor, forward: impl FnOnce(&Tensor) -> (Tensor, B)) -> Tensor
where
    B: Fn(&Tensor) -> Tensor + Send + 'static,
{
    let (mut output, backward) = tch::no_grad(|| forward(&input.detach()));
    let data = Box::into_raw(Box::new(backward)).cast();
    // SAFETY: both tensors live through the call; the closure belongs to the graph from here on, which hands it to
    // `walk` and `discard` alone.
    let is_set = unsafe { ipa_set_backward(output.as_mut_ptr(), input.as_ptr(), data, walk::<B>, discard::<B>) };
    assert!(is_set == 1, "libtorch could not record an operation");
    output
}

unsafe extern "C" fn walk<B: Fn(&Tensor) -> Tensor>(data: *mut c_void, gradient: *mut C_tensor) -> *mut C_tensor {
    // SAFETY: `with_backward` made `data` of a `B`; the gradient is handed over.
    let (backward, gradient) = unsafe { (&*data.cast::<B>(), Tensor::from_ptr(gradient)) };
    match catch_unwind(AssertUnwindSafe(|| backward(&gradient))) {
        Ok(mut result) => {
            // The caller deletes it.
            let owned = result.as_mut_ptr();
            std::mem::forget(result);
            owned
        }
        Err(_) => ptr::null_mut(),
    }
}

unsafe extern "C" fn discard<B>(data: *mut c_void) {
    // SAFETY: `with_backward` made it, and the graph discards it once.
    drop(unsafe { Box::from_raw(data.cast::<B>()) });
}

/// The gradient of what a group norm reads.
///
/// # Shapes
/// - `gradient`, `input` (contiguous), result: `[batch, channels, ..]`; `mean`, `rstd`: `[batch, groups]`, as
///   `native_group_norm` leaves them; `weight`: `[channels]`
///
/// # Panics
/// If shapes or kinds do not fit.
pub(crate) fn group_norm_backward(
    gradient: &Tensor,
    input: &Tensor,
    [mean, rstd]: [&Tensor; 2],
    weight: &Tensor,
    groups: i64,
) -> Tensor {
    // SAFETY: all live through the call; a result that is not null is handed over.
    unsafe {
        let result = ipa_group_norm_backward(
            gradient.as_ptr(),
            input.as_ptr(),
            mean.as_ptr(),
            rstd.as_ptr(),
            weight.as_ptr(),
            groups,
        );
        assert!(!result.is_null(), "group norm of {:?} by {groups} groups has no way back", input.size());
        Tensor::from_ptr(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::noise::Draws;

    fn cubed(input: &Tensor, kept: Arc<()>) -> Tensor {
        with_backward(input, |input| {
            let input = input.shallow_clone();
            (&input * &input * &input, move |gradient: &Tensor| {
                let _kept = &kept;
                3.0 * &input * &input * gradient
            })
        })
    }

    #[test]
    fn its_gradient_is_the_closures() {
        let x = Draws::seeded(0).normal(&[3, 2]).set_requires_grad(true);
        let kept = Arc::new(());
        let hidden = &x * 2.0;
        let loss = cubed(&hidden, Arc::clone(&kept)).sum(None);
        assert_eq!(Arc::strong_count(&kept), 2, "kept for the way back");
        loss.backward();
        assert_eq!(Arc::strong_count(&kept), 1, "freed on the way back");
        let expected: Tensor = 6.0 * (&x * 2.0).square();
        assert!((x.grad() - expected).abs().max().double_value(&[]) < 1e-5);
        assert!(loss.f_backward().is_err(), "it can be walked once");
    }

    #[test]
    fn its_result_may_be_changed_in_place() {
        let x = Draws::seeded(0).normal(&[1, 3]).set_requires_grad(true);
        let doubled = with_backward(&x, |x| ((x * 2.0).transpose(0, 1).view([3]), |g: &Tensor| (g * 2.0).view([1, 3])));
        crate::layers::added(doubled, &Tensor::from(1.0)).square().sum(None).backward();
        let expected: Tensor = 4.0 * (&x * 2.0 + 1.0);
        assert!((x.grad() - expected).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn what_is_never_walked_is_freed() {
        let x = Draws::seeded(0).normal(&[3]).set_requires_grad(true);
        let kept = Arc::new(());
        drop(cubed(&x, Arc::clone(&kept)));
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[test]
    fn a_panic_on_the_way_back_is_an_error() {
        let x = Draws::seeded(0).normal(&[3]).set_requires_grad(true);
        let failing = with_backward(&x, |x| (x * 2.0, |_: &Tensor| panic!("on purpose")));
        assert!(failing.sum(None).f_backward().is_err());
    }

    #[test]
    fn gradients_are_wanted_where_they_are_enabled() {
        let x = Tensor::from(1.0).set_requires_grad(true);
        assert!(is_wanted(&x) && !is_wanted(&x.detach()));
        let _no_grad = tch::no_grad_guard();
        assert!(!is_wanted(&x) && !is_grad_enabled());
    }
}
