//! Gradients of many variables as one vector.

use ipa_core::tch::{self, Tensor};

/// One flat buffer that `backward` adds the gradients of all variables into.
///
/// Autograd makes a gradient of its own for every variable that a loss reaches first; [`Gradients::collect`] moves it
/// into the buffer, of which it is a view from then on. Reading, clearing and summing gradients are single operations
/// after that, however many variables there are.
#[derive(Debug)]
pub(crate) struct Gradients {
    variables: Vec<Tensor>,
    views: Vec<Tensor>,
    moved: Vec<bool>,
    flat: Tensor,
}

impl Gradients {
    /// Of these variables, whose gradients nobody else keeps.
    ///
    /// # Panics
    /// If there are none, or they differ in kind or device.
    pub(crate) fn new(variables: Vec<Tensor>) -> Self {
        let flat = tch::no_grad(|| flatten(&variables).zeros_like());
        let views = views(&flat, &variables.iter().map(Tensor::size).collect::<Vec<_>>());
        let moved = vec![false; variables.len()];
        Self { variables, views, moved, flat }
    }

    /// All of them; variables that no loss has reached have zeros.
    pub(crate) fn collect(&mut self) -> &mut Tensor {
        if self.moved.contains(&false) {
            self.move_new();
        }
        &mut self.flat
    }

    fn move_new(&mut self) {
        let _no_grad = tch::no_grad_guard();
        for ((variable, view), moved) in self.variables.iter().zip(&mut self.views).zip(&mut self.moved) {
            let mut gradient = variable.grad();
            if !*moved && gradient.defined() {
                view.copy_(&gradient);
                gradient.set_data(view);
                *moved = true;
            }
        }
    }

    /// Sets all to zero.
    pub(crate) fn clear(&mut self) {
        let _no_grad = tch::no_grad_guard();
        let _ = self.collect().zero_();
    }
}

/// Tensors of one kind on one device, one after another as a vector of its own.
pub(crate) fn flatten(tensors: &[Tensor]) -> Tensor {
    Tensor::cat(&tensors.iter().map(|tensor| tensor.detach().reshape([-1])).collect::<Vec<_>>(), 0)
}

/// The parts of a flat buffer, in their shapes; they share its storage.
pub(crate) fn views(flat: &Tensor, sizes: &[Vec<i64>]) -> Vec<Tensor> {
    let mut start = 0;
    let mut view = |size: &Vec<i64>| {
        let length: i64 = size.iter().product();
        start += length;
        flat.narrow(0, start - length, length).view(size.as_slice())
    };
    sizes.iter().map(&mut view).collect()
}

#[cfg(test)]
mod tests {
    use ipa_core::tch::Kind;

    use super::*;

    #[test]
    fn backward_adds_into_the_buffer_and_clearing_it_clears_the_gradients() {
        let variable = |values: &[f32]| Tensor::from_slice(values).set_requires_grad(true);
        let (a, b) = (variable(&[1.0, 2.0]), variable(&[3.0]));
        let mut gradients = Gradients::new(vec![a.shallow_clone(), b.shallow_clone()]);
        let values = |tensor: &Tensor| Vec::<f32>::try_from(tensor).expect("a vector");
        (&a * 2.0).sum(Kind::Float).backward();
        assert_eq!(values(gradients.collect()), [2.0, 2.0, 0.0]);
        ((&a * 3.0).sum(Kind::Float) + (&b * 5.0).sum(Kind::Float)).backward();
        assert_eq!(values(gradients.collect()), [5.0, 5.0, 5.0]);
        gradients.clear();
        (&b * a.sum(Kind::Float)).sum(Kind::Float).backward();
        assert_eq!(values(gradients.collect()), [3.0, 3.0, 3.0]);
        assert_eq!(values(&a.grad()), [3.0, 3.0]);
    }
}
