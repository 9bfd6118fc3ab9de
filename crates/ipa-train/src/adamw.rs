//! AdamW over plain tensors, with state that can be saved.

use ipa_core::tch::{self, Device, Tensor};
use ipa_core::{Checkpoint, WeightsError};

use crate::gradients::{Gradients, flatten, views};

/// AdamW's constants (arXiv:1711.05101); [`Default`] is PyTorch's and the reference trainer's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Fraction (times the learning rate) that every parameter loses at each step.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// Parameters that a CPU updates at a time: what is between the operations stays in its cache.
const AT_ONCE: i64 = 1 << 18;

/// The optimizer of one run.
///
/// The variables are moved into one flat buffer, of which each becomes a view: a step is a dozen operations however many
/// tensors a model has; on a CPU, a dozen for every part.
#[derive(Debug)]
pub struct AdamW {
    names: Vec<String>,
    variables: Vec<Tensor>,
    gradients: Gradients,
    flat: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: u64,
    config: AdamWConfig,
}

impl AdamW {
    /// Takes over the variables, sorted by name, and makes them require gradients.
    ///
    /// # Panics
    /// If there are none, or they differ in kind or device.
    pub fn new(variables: impl IntoIterator<Item = (String, Tensor)>, config: AdamWConfig) -> Self {
        let mut named: Vec<(String, Tensor)> = variables.into_iter().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        let (names, mut variables): (Vec<String>, Vec<Tensor>) = named.into_iter().unzip();
        let flat = tch::no_grad(|| flatten(&variables));
        let sizes: Vec<Vec<i64>> = variables.iter().map(Tensor::size).collect();
        for (variable, view) in variables.iter_mut().zip(views(&flat, &sizes)) {
            variable.set_data(&view);
            let _ = variable.set_requires_grad(true);
        }
        let (exp_avg, exp_avg_sq) = (flat.zeros_like(), flat.zeros_like());
        let gradients = Gradients::new(variables.iter().map(Tensor::shallow_clone).collect());
        Self { names, variables, gradients, flat, exp_avg, exp_avg_sq, step: 0, config }
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// All parameters as one vector, in the order of their names: for averages and norms.
    pub fn parameters(&self) -> &Tensor {
        &self.flat
    }

    /// The gradient as one vector, in place: what is changed in it, the next step sees. Parameters that the loss did
    /// not reach have zeros.
    pub fn gradient(&mut self) -> &mut Tensor {
        self.gradients.collect()
    }

    /// Leaves a step out: the gradients are cleared and nothing moves.
    pub fn clear_gradient(&mut self) {
        self.gradients.clear();
    }

    /// One update from the gradients that `backward` left, which are cleared.
    pub fn step(&mut self, learning_rate: f64) {
        let at_once = if self.flat.device() == Device::Cpu { AT_ONCE } else { i64::MAX };
        self.step_in_parts(learning_rate, at_once);
    }

    fn step_in_parts(&mut self, learning_rate: f64, at_once: i64) {
        let _no_grad = tch::no_grad_guard();
        let gradient = self.gradient().shallow_clone();
        self.step += 1;
        let length = self.flat.size()[0];
        let at_once = at_once.min(length);
        for first in (0..length).step_by(at_once as usize) {
            let part = |flat: &Tensor| flat.narrow(0, first, at_once.min(length - first));
            let mut gradient = part(&gradient);
            self.apply(&gradient, [&self.flat, &self.exp_avg, &self.exp_avg_sq].map(part), learning_rate);
            let _ = gradient.zero_();
        }
    }

    /// As [`AdamW::step`] with the gradient shortened to `max_norm` if it is longer; gives its norm before that.
    pub fn step_clipped(&mut self, learning_rate: f64, max_norm: f64) -> f64 {
        let _no_grad = tch::no_grad_guard();
        let gradient = self.gradient();
        let norm = gradient.norm().double_value(&[]);
        if norm > max_norm {
            let _ = gradient.g_mul_scalar_(max_norm / norm);
        }
        self.step(learning_rate);
        norm
    }

    fn apply(&self, gradient: &Tensor, [mut flat, mut exp_avg, mut exp_avg_sq]: [Tensor; 3], learning_rate: f64) {
        let AdamWConfig { beta1, beta2, eps, weight_decay } = self.config;
        let bias1 = 1.0 - beta1.powf(self.step as f64);
        let bias2 = 1.0 - beta2.powf(self.step as f64);
        let _ = flat.g_mul_scalar_(1.0 - learning_rate * weight_decay);
        let _ = exp_avg.lerp_(gradient, 1.0 - beta1);
        let _ = exp_avg_sq.g_mul_scalar_(beta2).g_add_(&gradient.square().g_mul_scalar_(1.0 - beta2));
        let mut denominator = exp_avg_sq.sqrt();
        let _ = denominator.g_div_scalar_(bias2.sqrt()).g_add_scalar_(eps);
        let mut update = &exp_avg / denominator;
        let _ = flat.g_sub_(&update.g_mul_scalar_(learning_rate / bias1));
    }

    /// Everything but the parameters, for a checkpoint: `exp_avg.<name>`, `exp_avg_sq.<name>` and `step`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = vec![("step".to_owned(), Tensor::from_slice(&[self.step as i64]))];
        for (prefix, flat) in [("exp_avg", &self.exp_avg), ("exp_avg_sq", &self.exp_avg_sq)] {
            let tensors = views(flat, &self.variables.iter().map(Tensor::size).collect::<Vec<_>>());
            state.extend(
                self.names.iter().zip(tensors).map(|(name, tensor)| (format!("{prefix}.{name}"), tensor.copy())),
            );
        }
        state
    }

    /// Restores what [`AdamW::state`] gave; the parameters are restored through the model.
    ///
    /// # Errors
    /// [`WeightsError`] if the checkpoint belongs to other parameters.
    pub fn load_state(&mut self, checkpoint: &Checkpoint) -> Result<(), WeightsError> {
        let _no_grad = tch::no_grad_guard();
        let step = checkpoint.tensor("step")?.int64_value(&[0]) as u64;
        let (exp_avg, exp_avg_sq) = (self.moment(checkpoint, "exp_avg")?, self.moment(checkpoint, "exp_avg_sq")?);
        (self.step, self.exp_avg, self.exp_avg_sq) = (step, exp_avg, exp_avg_sq);
        Ok(())
    }

    fn moment(&self, checkpoint: &Checkpoint, prefix: &str) -> Result<Tensor, WeightsError> {
        let part = |(name, variable): (&String, &Tensor)| {
            let name = format!("{prefix}.{name}");
            let (found, expected) = (checkpoint.tensor(&name)?, variable.size());
            if found.size() != expected {
                let path = checkpoint.path().to_path_buf();
                return Err(WeightsError::Shape { path, name, found: found.size(), expected });
            }
            Ok(found.to_kind(variable.kind()).to_device(variable.device()).reshape([-1]))
        };
        let parts = self.names.iter().zip(&self.variables).map(part).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&parts, 0))
    }
}

/// An exponential moving average of the parameters, which samples better than the last of them.
#[derive(Debug)]
pub struct Ema {
    average: Tensor,
    decay: f64,
}

impl Ema {
    /// Starts from the optimizer's parameters.
    pub fn new(optimizer: &AdamW, decay: f64) -> Self {
        Self { average: optimizer.flat.copy(), decay }
    }

    /// Moves towards the optimizer's parameters; early on with less memory, `(1 + step) / (10 + step)`.
    pub fn update(&mut self, optimizer: &AdamW) {
        let _no_grad = tch::no_grad_guard();
        let step = optimizer.step as f64;
        let decay = self.decay.min((1.0 + step) / (10.0 + step));
        let _ = self.average.lerp_(&optimizer.flat, 1.0 - decay);
    }

    /// The averaged parameters under their names.
    pub fn tensors(&self, optimizer: &AdamW) -> Vec<(String, Tensor)> {
        let sizes: Vec<Vec<i64>> = optimizer.variables.iter().map(Tensor::size).collect();
        optimizer.names.iter().cloned().zip(views(&self.average, &sizes)).collect()
    }

    /// Replaces the average by a checkpoint's, whose names carry `prefix`.
    ///
    /// # Errors
    /// [`WeightsError`] if the checkpoint belongs to other parameters.
    pub fn load(&mut self, optimizer: &AdamW, checkpoint: &Checkpoint, prefix: &str) -> Result<(), WeightsError> {
        let _no_grad = tch::no_grad_guard();
        for (name, mut view) in self.tensors(optimizer) {
            view.copy_(&checkpoint.tensor(&format!("{prefix}{name}"))?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ipa_core::noise::Draws;
    use ipa_core::tch::Kind;

    use super::*;

    #[test]
    fn parts_of_any_size_make_the_same_step() {
        let stepped = |at_once: i64| {
            let variable = |seed, length| Draws::seeded(seed).normal(&[length]).set_requires_grad(true);
            let variables = [("a", variable(0, 5)), ("b", variable(1, 3))];
            let named = variables.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.shallow_clone()));
            let mut optimizer = AdamW::new(named, AdamWConfig::default());
            for _ in 0..2 {
                (variables[0].1.square().sum(Kind::Float) + variables[1].1.exp().sum(Kind::Float)).backward();
                optimizer.step_in_parts(0.1, at_once);
            }
            assert_eq!(optimizer.gradient().abs().sum(Kind::Float).double_value(&[]), 0.0);
            [&optimizer.flat, &optimizer.exp_avg, &optimizer.exp_avg_sq].map(Tensor::copy)
        };
        let whole = stepped(i64::MAX);
        for at_once in [1, 3, 7, 8] {
            assert_eq!(stepped(at_once), whole, "{at_once} at once");
        }
    }
}
