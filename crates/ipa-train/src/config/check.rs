//! The ranges of settings.

use super::{AdapterSettings, DataSettings, ObjectiveSettings, OptimizerSettings, ScheduleSettings, TrainConfig};
use crate::TrainError;

/// Keeps the number of steps far from overflow.
const MAX_EPOCHS: u64 = 1_000_000;
/// Most of a LoRA.
const MAX_RANK: i64 = 1024;
/// Most tokens a picture may become.
const MAX_TOKENS: i64 = 1024;

impl TrainConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`TrainError::Field`].
    pub fn check(&self) -> Result<(), TrainError> {
        self.check_adapter()?;
        self.check_data()?;
        self.check_schedule()?;
        self.check_optimizer()?;
        self.check_objective()?;
        self.validation.check()
    }

    fn check_adapter(&self) -> Result<(), TrainError> {
        let AdapterSettings { variant, features, num_tokens, lora_rank, train_unet } = self.adapter;
        if variant.zip(features).is_some_and(|(variant, features)| !variant.reads(features)) {
            let allowed = "classic reads global ones and plus fine ones; simple and prefusion either";
            return refuse("features", &"not what the variant reads", allowed);
        }
        if train_unet && self.validation.held_out > 0.0 {
            let allowed = "not with `held_out`: the best step's adapter would be kept without its UNet";
            return refuse("train_unet", &train_unet, allowed);
        }
        match num_tokens.filter(|num_tokens| !(1..=MAX_TOKENS).contains(num_tokens)) {
            Some(num_tokens) => refuse("num_tokens", &num_tokens, "choose 1 to 1024; 4 and 16 are usual"),
            None => match lora_rank.filter(|rank| !(1..=MAX_RANK).contains(rank)) {
                Some(rank) => refuse("lora_rank", &rank, "choose 1 to 1024; 128 is published"),
                None => Ok(()),
            },
        }
    }

    fn check_data(&self) -> Result<(), TrainError> {
        let DataSettings { resolution, flip, image_drop, text_drop, both_drop, bucket_step, cache_gib, .. } = self.data;
        let sides = self.data.more_resolutions.iter().map(|side| ("more_resolutions", *side));
        let sides = [("resolution", resolution)].into_iter().chain(sides);
        let is_wrong = |side: u32| !side.is_multiple_of(8) || !(8..=4096).contains(&side);
        if let Some((field, side)) = sides.into_iter().find(|(_, side)| is_wrong(*side)) {
            return refuse(field, &side, "choose a multiple of 8 between 8 and 4096");
        }
        let sides = || [&resolution].into_iter().chain(&self.data.more_resolutions);
        let divides = |step: u32| step > 0 && step.is_multiple_of(8) && sides().all(|side| side.is_multiple_of(step));
        if let Some(step) = bucket_step.filter(|step| !divides(*step)) {
            return refuse("bucket_step", &step, "choose a multiple of 8 that divides every resolution; 64 is usual");
        }
        if !(0.0..=1.0).contains(&flip) {
            return refuse("flip", &flip, "choose 0 to 1; 0.5 mirrors every second row");
        }
        if !(0.0..=1e6).contains(&cache_gib) {
            return refuse("cache_gib", &cache_gib, "choose 0 or more GiB");
        }
        let drops = [("image_drop", image_drop), ("text_drop", text_drop), ("both_drop", both_drop)];
        if let Some((field, share)) = drops.into_iter().find(|(_, share)| !(0.0..=1.0).contains(share)) {
            return refuse(field, &share, "choose 0 to 1; 0.05 is the reference's");
        }
        match image_drop + text_drop + both_drop {
            sum if sum > 1.0 => refuse("both_drop", &both_drop, "choose shares that come to at most 1 together"),
            _ => Ok(()),
        }
    }

    fn check_schedule(&self) -> Result<(), TrainError> {
        let ScheduleSettings { epochs, batch, accumulation, .. } = self.schedule;
        let counts = [
            ("epochs", epochs),
            ("batch", batch as u64),
            ("accumulation", accumulation as u64),
            ("save_steps", self.output.save_steps),
        ];
        if let Some((field, value)) = counts.into_iter().find(|(_, value)| *value == 0) {
            return refuse(field, &value, "choose at least 1");
        }
        if batch.checked_mul(accumulation).is_none_or(|rows| rows > 1 << 20) {
            return refuse("accumulation", &accumulation, "choose fewer: at most a million rows make a step");
        }
        if let Some((field, value)) = [("seed", self.seed), ("save_steps", self.output.save_steps)]
            .into_iter()
            .find(|(_, value)| i64::try_from(*value).is_err())
        {
            return refuse(field, &value, "choose less than 2^63, as much as a TOML file holds");
        }
        if self.schedule.max_steps == Some(0) {
            return refuse("max_steps", &0, "choose at least 1");
        }
        if self.output.keep_checkpoints == 0 {
            return refuse("keep_checkpoints", &0, "choose at least 1: a run goes on from the latest");
        }
        match epochs > MAX_EPOCHS {
            true => refuse("epochs", &epochs, "choose at most 1000000"),
            false => Ok(()),
        }
    }

    fn check_optimizer(&self) -> Result<(), TrainError> {
        let OptimizerSettings { learning_rate, weight_decay, max_grad_norm, ema_decay } = self.optimizer;
        if !(learning_rate > 0.0 && learning_rate <= 1.0) {
            return refuse("learning_rate", &learning_rate, "choose a number above 0 and at most 1, such as 1e-4");
        }
        if !(0.0..=1.0).contains(&weight_decay) {
            return refuse("weight_decay", &weight_decay, "choose 0 to 1, such as 0.01");
        }
        if let Some(norm) = max_grad_norm.filter(|norm| !(*norm > 0.0 && norm.is_finite())) {
            return refuse("max_grad_norm", &norm, "choose a number above 0, such as 1");
        }
        match ema_decay.filter(|decay| !(0.0..1.0).contains(decay)) {
            Some(decay) => refuse("ema_decay", &decay, "choose 0 to less than 1, such as 0.999"),
            None => Ok(()),
        }
    }

    fn check_objective(&self) -> Result<(), TrainError> {
        let ObjectiveSettings { min_snr_gamma, noise_offset, input_perturbation, first_timestep, last_timestep } =
            self.objective;
        if let Some(gamma) = min_snr_gamma.filter(|gamma| !(*gamma > 0.0 && gamma.is_finite())) {
            return refuse("min_snr_gamma", &gamma, "choose a number above 0; 5 is usual");
        }
        let deviations = [("noise_offset", noise_offset), ("input_perturbation", input_perturbation)];
        if let Some((field, value)) = deviations.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            return refuse(field, &value, "choose 0 to 1; 0 is none, 0.1 is much");
        }
        match first_timestep < 0 || last_timestep.is_some_and(|last| last < first_timestep) {
            true => refuse("first_timestep", &first_timestep, "choose 0 or more, and at most last_timestep"),
            false => Ok(()),
        }
    }
}

/// A value that is out of its range.
pub(crate) fn refuse(field: &'static str, value: &dyn ToString, allowed: &'static str) -> Result<(), TrainError> {
    Err(TrainError::Field { field, value: value.to_string(), allowed })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_checked_by_field() {
        let refused = |text: &str| toml::from_str::<TrainConfig>(text).unwrap().check().unwrap_err().to_string();
        for (text, field) in [
            ("[data]\nresolution = 100", "`resolution`"),
            ("[data]\nmore_resolutions = [100]", "`more_resolutions`"),
            ("[data]\nbucket_step = 7", "`bucket_step`"),
            ("[data]\nflip = 1.1", "`flip`"),
            ("[data]\ncache_gib = -1.0", "`cache_gib`"),
            ("[data]\nimage_drop = 1.5", "`image_drop`"),
            ("[adapter]\nlora_rank = 0", "`lora_rank`"),
            ("[adapter]\ntrain_unet = true\n[validation]\nheld_out = 0.1", "`train_unet`"),
            ("[schedule]\nmax_steps = 0", "`max_steps`"),
            ("[data]\nimage_drop = 0.6\ntext_drop = 0.6", "`both_drop`"),
            ("[schedule]\naccumulation = 0", "`accumulation`"),
            ("[output]\nkeep_checkpoints = 0", "`keep_checkpoints`"),
            ("[optimizer]\nmax_grad_norm = 0.0", "`max_grad_norm`"),
            ("[optimizer]\nema_decay = 1.0", "`ema_decay`"),
            ("[objective]\nmin_snr_gamma = -1.0", "`min_snr_gamma`"),
            ("[objective]\nnoise_offset = 2.0", "`noise_offset`"),
            ("[objective]\nfirst_timestep = 5\nlast_timestep = 4", "`first_timestep`"),
            ("[adapter]\nvariant = \"plus\"\nfeatures = \"global\"", "`features`"),
        ] {
            assert!(refused(text).contains(field), "{text}");
        }
    }
}
