//! Safetensors, from the file to its tensors, and what is told of it.
#![no_main]

use ipa_formats::{SafetensorsFile, inspect};
use ipa_fuzz::{Counting, allowance, with_file, within};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|bytes: &[u8]| {
    with_file(bytes, |path| {
        within(allowance(bytes.len()), || {
            if let Ok(file) = SafetensorsFile::open(path) {
                for name in file.names() {
                    let info = file.info(name).expect("every name has its sizes");
                    assert_eq!(file.data(name).map(<[u8]>::len), Some(info.num_bytes()));
                }
            }
            let _ = inspect(path);
        });
    });
});
