//! Trains an adapter on captioned pictures, in f32:
//! `cargo run --release -p ipa --example train -- MODEL IMAGE_ENCODER DATA.json OUTPUT [INIT_ADAPTER]`
//!
//! OUTPUT gets checkpoints and `ip_adapter.safetensors`. Without INIT_ADAPTER, keys and values start as copies of the
//! UNet's own.

use std::env;
use std::error::Error;
use std::ops::ControlFlow;
use std::path::Path;

use ipa::core::device::parse_device;
use ipa::sample::AdapterSource;
use ipa::tch::Kind;
use ipa::train::Event;
use ipa::{Dataset, FrozenModels, TrainConfig, Trainer};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, image_encoder, data, output, init_adapter @ ..] = arguments.as_slice() else {
        return Err("give MODEL IMAGE_ENCODER DATA.json OUTPUT [INIT_ADAPTER]".into());
    };
    let options = (parse_device("auto")?, Kind::Float);
    let models = FrozenModels::load(model.as_ref(), Some(image_encoder.as_ref()), options)?;
    let dataset = Dataset::open(data.as_ref())?;
    let mut config = TrainConfig::mini(models.native_side());
    config.schedule.epochs = 20;

    let init_adapter = init_adapter.first().map(|file| AdapterSource::from(Path::new(file)));
    let mut trainer = Trainer::new(&models, &dataset, config, init_adapter.as_ref())?;
    trainer.run(output.as_ref(), |event| {
        if let Event::Step { progress, .. } = event {
            eprintln!("step {} of {}: loss {:.4}", progress.step, progress.steps, progress.loss);
        }
        ControlFlow::Continue(())
    })?;
    Ok(())
}
