//! Draws a picture from a reference image and a prompt:
//! `cargo run --release -p ipa --example generate -- MODEL ADAPTER IMAGE_ENCODER IMAGE PROMPT OUT.png`
//!
//! With the pocket model, MODEL is `assets/pocket`, ADAPTER `assets/pocket/ip_adapter.safetensors` and IMAGE_ENCODER
//! `assets/pocket/image_encoder`.

use std::env;
use std::error::Error;
use std::ops::ControlFlow;

use ipa::core::device::{parse_device, parse_kind};
use ipa::{GenerateRequest, PictureFormat, Pipeline, load_image, write_picture};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, adapter, image_encoder, image, prompt, output] = arguments.as_slice() else {
        return Err("give MODEL ADAPTER IMAGE_ENCODER IMAGE PROMPT OUT.png".into());
    };
    let device = parse_device("auto")?;
    let options = (device, parse_kind("auto", device)?);
    let pipeline =
        Pipeline::load(model.as_ref(), options)?.with_adapter(adapter.as_ref(), Some(image_encoder.as_ref()))?;

    let request = GenerateRequest {
        prompt: prompt.clone(),
        images: vec![image.into()],
        scale: 0.6,
        ..GenerateRequest::default()
    };
    let reference = load_image(image.as_ref())?;
    let generated = pipeline.generate(&request, &[reference], |step| {
        eprintln!("step {step} of {}", request.num_steps);
        ControlFlow::Continue(())
    })?;
    let picture = &generated.pictures[0];
    write_picture(output.as_ref(), picture, &pipeline.record(&request, 0, picture), PictureFormat::Png)?;
    Ok(())
}
