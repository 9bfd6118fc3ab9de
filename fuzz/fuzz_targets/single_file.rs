//! Single-file checkpoints: names and sizes of any kind, to a folder and back.
//!
//! The input is text: on each line a name, after it the sizes. `*` in a name stands for what most names begin with.
#![no_main]

use std::collections::BTreeMap;

use ipa_formats::{
    Component, Dtype, FolderTensors, SingleFileOptions, TensorInfo, is_single_file, plan_single_file, read_single_file,
};
use ipa_fuzz::{Counting, allowance, within};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn tensors(text: &str) -> BTreeMap<String, TensorInfo> {
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.replace('*', "model.diffusion_model.");
        let shape: Vec<usize> = words.map_while(|word| word.parse().ok()).collect();
        let bytes = shape.iter().try_fold(2usize, |bytes, &size| bytes.checked_mul(size))?;
        // What no file could hold does not come out of one.
        (bytes <= isize::MAX as usize).then_some((name, TensorInfo { dtype: Dtype::F16, shape }))
    };
    text.lines().filter_map(line).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let tensors = tensors(text);
    within(allowance(bytes.len()), || {
        is_single_file(&tensors);
        for ema in [false, true] {
            let options = SingleFileOptions { ema, whole_text_tower: ema, ..SingleFileOptions::default() };
            let Ok(single) = read_single_file(&tensors, &options) else { continue };
            let folder = |component: Component| -> BTreeMap<String, TensorInfo> {
                let plans = single.plans.iter().filter(|plan| plan.component == component);
                plans.map(|plan| (plan.name.clone(), plan.info.clone())).collect()
            };
            let [unet, vae, text] = [Component::Unet, Component::Vae, Component::TextEncoder].map(folder);
            let folder = FolderTensors {
                unet: Some(&unet),
                vae: Some(&vae),
                text_encoder: Some(&text),
                version: single.info.version,
            };
            let _ = plan_single_file(&folder);
        }
        let folder = FolderTensors { unet: Some(&tensors), vae: Some(&tensors), text_encoder: Some(&tensors), version: None };
        let _ = plan_single_file(&folder);
    });
});
