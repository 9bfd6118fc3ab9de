//! Classifier-free guidance, arXiv:2207.12598.

use ipa_core::tch::Tensor;

use crate::GenerateRequest;

/// `u + g (c − u)` of a batch `[unconditional; conditional]`.
///
/// `guidance_scale` is 1 + w of the paper: 1 is no guidance.
pub fn guided(noise_pred: &Tensor, guidance_scale: f64) -> Tensor {
    let halves = noise_pred.chunk(2, 0);
    &halves[0] + (&halves[1] - &halves[0]) * guidance_scale
}

/// How, and during which part of sampling, a request is guided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Guidance {
    scale: f64,
    rescale: f64,
    start: f64,
    end: f64,
}

impl Guidance {
    /// `None` if no step of the request is guided.
    pub(crate) fn of(request: &GenerateRequest) -> Option<Self> {
        let GenerateRequest { guidance_scale, guidance_rescale, guidance_start, guidance_end, .. } = *request;
        let guidance =
            Self { scale: guidance_scale, rescale: guidance_rescale, start: guidance_start, end: guidance_end };
        (guidance_scale > 1.0 && guidance_start < guidance_end).then_some(guidance)
    }

    /// Whether a call is guided before which `done` of all calls, in `[0, 1)`, were made (arXiv:2404.07724).
    pub(crate) fn is_on(&self, done: f64) -> bool {
        (self.start..self.end).contains(&done)
    }

    pub(crate) fn is_always_on(&self) -> bool {
        self.start <= 0.0 && self.end >= 1.0
    }

    /// [`guided`], then the deviation brought towards that of the conditional prediction (arXiv:2305.08891 §3.4).
    pub(crate) fn apply(&self, noise_pred: &Tensor) -> Tensor {
        let guided = guided(noise_pred, self.scale);
        if self.rescale == 0.0 {
            return guided;
        }
        let deviation = |tensor: &Tensor| tensor.std_dim([1_i64, 2, 3].as_slice(), true, true);
        let factor = deviation(&noise_pred.chunk(2, 0)[1]) / deviation(&guided);
        &guided * factor * self.rescale + guided * (1.0 - self.rescale)
    }
}

#[cfg(test)]
mod tests {
    use ipa_core::noise::Draws;

    use super::*;

    #[test]
    fn a_whole_rescale_has_the_deviation_of_the_conditional_prediction() {
        let noise_pred = Draws::seeded(0).normal(&[4, 4, 8, 8]);
        let guidance = Guidance { scale: 7.5, rescale: 1.0, start: 0.0, end: 1.0 };
        let deviation = |tensor: &Tensor| tensor.std_dim([1_i64, 2, 3].as_slice(), true, false);
        let (found, expected) = (deviation(&guidance.apply(&noise_pred)), deviation(&noise_pred.chunk(2, 0)[1]));
        assert!((found - expected).abs().max().double_value(&[]) < 1e-6);
    }

    #[test]
    fn the_window_decides_which_calls_are_guided() {
        let of = |guidance_start, guidance_end| {
            Guidance::of(&GenerateRequest { guidance_start, guidance_end, ..GenerateRequest::default() })
        };
        let whole = of(0.0, 1.0).expect("guided");
        assert!(whole.is_always_on() && whole.is_on(0.0) && whole.is_on(0.99));
        let middle = of(0.2, 0.6).expect("guided");
        assert!(!middle.is_always_on() && !middle.is_on(0.1) && middle.is_on(0.2) && !middle.is_on(0.6));
        assert_eq!(of(0.5, 0.5), None);
        assert_eq!(Guidance::of(&GenerateRequest { guidance_scale: 1.0, ..GenerateRequest::default() }), None);
    }
}
