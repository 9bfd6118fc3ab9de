//! A record in the words that tools for Stable Diffusion pictures read: `parameters`, as AUTOMATIC1111's web UI began.

use std::path::Path;

use crate::{Record, SamplerKind};

/// The prompt, the negative prompt after its name, and a last line of `Name: value` pairs.
///
/// Names are those of the web UI where it has them; values with a comma, colon or line break are quoted as JSON.
pub fn parameters(record: &Record) -> String {
    let request = &record.request;
    let (prompt, negative) = request.prompts();
    let mut lines = vec![prompt.to_owned()];
    if !negative.is_empty() {
        lines.push(format!("Negative prompt: {negative}"));
    }
    let pairs: Vec<String> =
        pairs(record).into_iter().map(|(name, value)| format!("{name}: {}", quoted(&value))).collect();
    lines.push(pairs.join(", "));
    lines.join("\n")
}

fn pairs(record: &Record) -> Vec<(&'static str, String)> {
    let request = &record.request;
    let mut pairs = vec![
        ("Steps", request.num_steps.to_string()),
        ("Sampler", sampler_name(&record.scheduler)),
        ("CFG scale", request.guidance_scale.to_string()),
        ("Seed", request.seed.to_string()),
        ("Size", format!("{}x{}", record.width, record.height)),
    ];
    if let Some(model) = &record.model {
        pairs.push(("Model hash", short(&model.file.sha256)));
        pairs.push(("Model", stem(&model.file.file)));
        if let Some(vae) = &model.vae {
            pairs.push(("VAE hash", short(&vae.sha256)));
            pairs.push(("VAE", stem(&vae.file)));
        }
    }
    if request.init_image.is_some() {
        pairs.push(("Denoising strength", request.strength().to_string()));
    }
    if request.clip_skip > 0 {
        pairs.push(("Clip skip", (request.clip_skip + 1).to_string())); // there 1 is the last layer
    }
    if request.eta > 0.0 {
        pairs.push(("Eta", request.eta.to_string()));
    }
    if request.guidance_rescale > 0.0 {
        pairs.push(("CFG Rescale phi", request.guidance_rescale.to_string()));
    }
    if request.num_images > 1 {
        pairs.push(("Batch size", request.num_images.to_string()));
        pairs.push(("Batch pos", record.index.to_string()));
    }
    if let Some(adapter) = &record.adapter {
        pairs.push(("IP-Adapter", stem(&adapter.file.file)));
        pairs.push(("IP-Adapter hash", short(&adapter.file.sha256)));
        let named = request.image_prompts.iter().map(|prompt| prompt.scale);
        let own = (named.len() == 0 || request.own_prompt().is_some()).then_some(request.scale);
        let scales: Vec<String> = own.into_iter().chain(named).map(|scale| scale.to_string()).collect();
        pairs.push(("IP-Adapter scale", scales.join(", "))); // of every image prompt
    }
    if let Some(encoder) = &record.image_encoder {
        pairs.push(("IP-Adapter encoder hash", short(&encoder.sha256)));
    }
    pairs.push(("Version", format!("ipa {}", record.ipa)));
    pairs
}

/// The web UI's own name of a sampler.
fn sampler_name(name: &str) -> String {
    let known = match name.parse() {
        Ok(SamplerKind::Ddim) => "DDIM",
        Ok(SamplerKind::Ddpm) => "DDPM",
        Ok(SamplerKind::Pndm) => "PLMS",
        Ok(SamplerKind::Euler) => "Euler",
        Ok(SamplerKind::EulerAncestral) => "Euler a",
        Ok(SamplerKind::Heun) => "Heun",
        Ok(SamplerKind::Dpmpp2m) => "DPM++ 2M",
        Ok(SamplerKind::Dpmpp2mKarras) => "DPM++ 2M Karras",
        Ok(SamplerKind::Dpmpp2mSde) => "DPM++ 2M SDE",
        Ok(SamplerKind::Dpmpp2mSdeKarras) => "DPM++ 2M SDE Karras",
        Ok(SamplerKind::Unipc) => "UniPC",
        Ok(SamplerKind::Lcm) => "LCM",
        Err(_) => name,
    };
    known.to_owned()
}

/// The first digits, by which model sites look files up.
fn short(sha256: &str) -> String {
    sha256.chars().take(10).collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

fn quoted(value: &str) -> String {
    match value.contains([',', ':', '\n', '"']) {
        true => serde_json::Value::from(value).to_string(),
        false => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdapterRecord, FileRecord, GenerateRequest, ModelRecord};

    fn record(request: GenerateRequest) -> Record {
        let file = FileRecord { file: "models/some, model.safetensors".into(), sha256: "0123456789abcdef".into() };
        Record {
            ipa: "1.2.3".into(),
            request,
            index: 1,
            width: 512,
            height: 768,
            scheduler: "dpm++2m-karras".into(),
            device: "cpu".into(),
            dtype: "f32".into(),
            model: Some(ModelRecord {
                file: file.clone(),
                vae: None,
                tokenizer: None,
                ema: false,
                prediction_type: None,
            }),
            adapter: Some(AdapterRecord {
                file: FileRecord { file: "face.bin".into(), ..file },
                lora: None,
                variant: None,
                numbering: None,
            }),
            image_encoder: None,
            pictures: Vec::new(),
            files: Vec::new(),
        }
    }

    #[test]
    fn prompt_negative_prompt_and_pairs_are_the_lines() {
        let request = GenerateRequest {
            prompt: "a cat,\non a mat".into(),
            negative_prompt: "dogs".into(),
            num_images: 2,
            clip_skip: 1,
            scale: 0.5,
            seed: 7,
            ..GenerateRequest::default()
        };
        let expected = "a cat,\non a mat\nNegative prompt: dogs\nSteps: 50, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 7, \
                        Size: 512x768, Model hash: 0123456789, Model: \"some, model\", Clip skip: 2, Batch size: 2, \
                        Batch pos: 1, IP-Adapter: face, IP-Adapter hash: 0123456789, IP-Adapter scale: 0.5, \
                        Version: ipa 1.2.3";
        assert_eq!(parameters(&record(request)), expected);
    }

    #[test]
    fn what_was_not_asked_for_is_not_there() {
        let text = parameters(&record(GenerateRequest::default()));
        assert!(text.starts_with("\nSteps: 50, "), "{text}");
        assert!(!text.contains("Denoising strength") && !text.contains("Clip skip"), "{text}");
        let request = GenerateRequest { init_image: Some("a.png".into()), ..GenerateRequest::default() };
        assert!(parameters(&record(request)).contains("Denoising strength: 0.8"));
    }
}
