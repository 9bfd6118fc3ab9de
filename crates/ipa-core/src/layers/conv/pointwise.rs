//! 1×1 convolutions: matrix products between features and tokens.

use tch::{Device, Tensor};

use super::Conv2d;
use crate::autograd::{is_wanted, with_backward};
use crate::cuda::is_half_on_card;

impl Conv2d {
    /// A 1×1 convolution is a matrix product, whose way back keeps nothing where the matrix is frozen.
    pub(super) fn by_matrix(&self, hidden: &Tensor) -> Tensor {
        let (batch, inputs, height, width) = hidden.size4().expect("pictures have four sizes");
        let columns = hidden.reshape([batch, inputs, height * width]);
        self.columns(&columns).view([batch, -1, height, width])
    }

    /// A 1×1 convolution from features to tokens, without laying either out anew, nor their gradients.
    ///
    /// # Shapes
    /// - `features`: `[batch, inputs, h, w]`; result: `[batch, h · w, outputs]`
    ///
    /// # Panics
    /// If the kernel is larger.
    pub fn to_tokens(&self, features: &Tensor) -> Tensor {
        if is_half_on_card(features) && features.permute([0, 2, 3, 1]).is_contiguous() {
            return self.linear(&features.flatten(2, 3).transpose(1, 2));
        }
        let forward = |features: &Tensor| {
            let tokens = features.flatten(2, 3).transpose(1, 2);
            let matrix = self.matrix(tokens.size()[0]).transpose(1, 2);
            match &self.bias {
                Some(bias) => bias.view([1, 1, -1]).baddbmm(&tokens, &matrix, 1, 1),
                None => tokens.bmm(&matrix),
            }
        };
        if !self.is_walked_back(features) {
            return forward(features);
        }
        with_backward(features, |features| {
            let (size, matrix) = (features.size(), self.matrix(features.size()[0]).transpose(1, 2));
            let backward = move |gradient: &Tensor| matrix.bmm(&gradient.transpose(1, 2)).view(size.as_slice());
            (forward(features), backward)
        })
    }

    /// A 1×1 convolution from tokens to features, as [`Conv2d::to_tokens`].
    ///
    /// # Shapes
    /// - `tokens`: `[batch, h · w, inputs]`; result: `size`, `[batch, outputs, h, w]`
    ///
    /// # Panics
    /// If the kernel is larger, or the sizes do not fit.
    pub fn to_features(&self, tokens: &Tensor, size: &[i64]) -> Tensor {
        let is_last = is_half_on_card(tokens) && !is_wanted(tokens);
        if let (true, &[batch, outputs, height, width]) = (is_last, size) {
            return self.linear(tokens).view([batch, height, width, outputs]).permute([0, 3, 1, 2]);
        }
        let forward = |tokens: &Tensor| self.columns(&tokens.transpose(1, 2)).view(size);
        if !self.is_walked_back(tokens) {
            return forward(tokens);
        }
        with_backward(tokens, |tokens| {
            let matrix = self.matrix(tokens.size()[0]);
            let backward = move |gradient: &Tensor| gradient.flatten(2, 3).transpose(1, 2).bmm(&matrix);
            (forward(tokens), backward)
        })
    }

    /// A 1×1 convolution of features with channels last, which are tokens already.
    fn linear(&self, tokens: &Tensor) -> Tensor {
        tokens.linear(&self.matrix(1).squeeze_dim(0), self.bias.as_ref())
    }

    /// Whether gradients of what is read are wanted on a CPU, and none of the weights.
    fn is_walked_back(&self, hidden: &Tensor) -> bool {
        is_wanted(hidden) && hidden.device() == Device::Cpu && !self.weight.requires_grad()
    }

    /// `[batch, inputs, n]` → `[batch, outputs, n]`.
    fn columns(&self, columns: &Tensor) -> Tensor {
        let matrix = self.matrix(columns.size()[0]);
        match &self.bias {
            Some(bias) => bias.view([1, -1, 1]).baddbmm(&matrix, columns, 1, 1),
            None => matrix.bmm(columns),
        }
    }

    /// The weights of a 1×1 kernel, `[batch, outputs, inputs]`.
    fn matrix(&self, batch: i64) -> Tensor {
        let (outputs, inputs, ..) = self.weight.size4().expect("a convolution's weights have four sizes");
        self.weight.view([1, outputs, inputs]).expand([batch, outputs, inputs], false)
    }
}

#[cfg(test)]
mod tests {
    use tch::nn::VarStore;
    use tch::{Device, Tensor};

    use crate::layers::conv::tests::filled;
    use crate::layers::conv2d;
    use crate::noise::Draws;

    #[test]
    fn by_a_matrix_it_is_the_convolution() {
        let vs = VarStore::new(Device::Cpu);
        let conv = conv2d(&vs.root(), 5, 7, 1);
        filled(&vs);
        let hidden = Draws::seeded(1).normal(&[2, 5, 3, 4]);
        let variables = vs.variables();
        let direct = hidden.conv2d(&variables["weight"], Some(&variables["bias"]), [1, 1], [0, 0], [1, 1], 1);
        let tokens = |features: &Tensor| features.flatten(2, 3).transpose(1, 2);
        let is_near = |found: Tensor, expected: &Tensor| (found - expected).abs().max().double_value(&[]) < 1e-5;
        assert!(is_near(hidden.apply(&conv), &direct));
        assert!(is_near(conv.to_tokens(&hidden), &tokens(&direct)));
        assert!(is_near(conv.to_features(&tokens(&hidden), &[2, 7, 3, 4]), &direct));
        let gradient = |of: &dyn Fn(&Tensor) -> Tensor| {
            let hidden = hidden.copy().set_requires_grad(true);
            let result = of(&(&hidden * 2.0));
            (result * Draws::seeded(7).normal(&[2, 7, 3, 4])).sum(None).backward();
            hidden.grad()
        };
        let expected = gradient(&|hidden| hidden.apply(&conv));
        let through = |hidden: &Tensor| conv.to_tokens(hidden).transpose(1, 2).view([2, 7, 3, 4]);
        assert!(is_near(gradient(&through), &expected));
        assert!(is_near(gradient(&|hidden| conv.to_features(&tokens(hidden), &[2, 7, 3, 4])), &expected));
    }
}
