//! Adapters in every dialect, LoRA files and identity vectors, from the file to their tensors.
#![no_main]

use ipa_formats::{AdapterFile, AdapterOptions, Numbering, Weights, lora_layers, read_vectors};
use ipa_fuzz::{Counting, allowance, with_file, within};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|bytes: &[u8]| {
    with_file(bytes, |path| {
        within(allowance(bytes.len()), || {
            for numbering in [Numbering::Published, Numbering::Dense] {
                if let Ok(adapter) = AdapterFile::open(path, &AdapterOptions { numbering, variant: None }) {
                    for name in adapter.weights().names() {
                        let info = adapter.weights().info(name).expect("every name has its sizes");
                        assert_eq!(adapter.weights().data(name).map(|data| data.len()), Some(info.num_bytes()));
                    }
                }
            }
            if let Ok(weights) = Weights::open(path) {
                let modules = ["attn1.to_q", "attn2.to_out.0"].map(|part| format!("down_blocks.0.attentions.0.{part}"));
                let _ = lora_layers(&weights, &modules);
            }
            if let Ok(vectors) = read_vectors(path) {
                assert_eq!(vectors.data.len(), vectors.rows * vectors.width);
            }
        });
    });
});
