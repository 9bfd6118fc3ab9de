//! Pictures of strangers: an error or a picture of the size that the file says, within the limit of pixels; and what they
//! say of how they were drawn.
#![no_main]

use ipa_clip::load_image;
use ipa_clip::preprocess::MAX_PIXELS;
use ipa_fuzz::{Counting, allowance, with_file, within};
use ipa_sample::read_record;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fuzz_target!(|bytes: &[u8]| {
    with_file(bytes, |path| {
        // Decoded, turned and converted: two pictures of 16 bits and four channels at once.
        within(allowance(bytes.len()) + 16 * MAX_PIXELS as usize, || {
            if let Ok(picture) = load_image(path) {
                let (width, height) = picture.dimensions();
                assert_eq!(picture.as_raw().len(), 3 * width as usize * height as usize);
            }
        });
        within(allowance(bytes.len()), || drop(read_record(path)));
    });
});
