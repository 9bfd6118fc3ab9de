//! Pictures of strangers: an error or a picture of the size that the file says, within the limit of pixels.
#![no_main]

use ipa_clip::load_image;
use ipa_fuzz::with_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    with_file(bytes, |path| {
        if let Ok(picture) = load_image(path) {
            let (width, height) = picture.dimensions();
            assert_eq!(picture.as_raw().len(), 3 * width as usize * height as usize);
        }
    });
});
