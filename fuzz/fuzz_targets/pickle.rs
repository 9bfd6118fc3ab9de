//! What torch writes: never more than an error, whatever the bytes.
#![no_main]

use ipa_formats::TorchIndex;
use ipa_fuzz::{Counting, allowance, within};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|bytes: &[u8]| {
    within(allowance(bytes.len()), || {
        let Ok(index) = TorchIndex::new(bytes) else { return };
        for (name, info) in index.tensors() {
            let data = index.data(name, bytes).expect("every tensor has its data");
            assert_eq!(data.len(), info.num_bytes());
        }
    });
});
