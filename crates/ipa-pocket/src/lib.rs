//! The drawn world of the pocket model: scenes, captions, a renderer, and judges that measure pixels.
//!
//! A [`Scene`] holds a background, a drawing style and one to three objects, each with shape, size, colour, fill and
//! place. Everything is drawn from a seed and an index, so a dataset is a range of numbers and needs no files.
//! Captions name only some of what is seen, and for some colours there is no word; what they leave out is what an
//! image prompt can say.
//! Of the 64 combinations of shape and colour, 8 are held out: [`Split::Train`] never shows them.
//!
//! Because the world is known exactly, [`judge()`] can tell from the pixels alone whether a generated picture has the
//! background, colour, shape, fill and style it should have. A [`Subject`] is outside this world, to be learned
//! by an adapter from five pictures.
//!
//! Measured on 1,000 rendered scenes, the judges are right about the background always and about colour, shape, fill,
//! style and number of objects in at least 99 of 100; on blurred and noisy ones in at least 97 (`tests/judges.rs`).
//!
//! Deliberately not here: tensors, networks, training. Pictures are [`image::RgbImage`], captions are text.
//!
//! ```
//! use ipa_pocket::{Scene, Split, caption, judge, main_caption, render};
//!
//! let scene = Scene::draw_at(7, 0, Split::HeldOut);
//! let picture = render(&scene, 64);
//! println!("{} / {}", caption(&scene, 7, 0), main_caption(&scene));
//!
//! let found = judge(&picture);
//! assert_eq!(found.color, scene.main().color);
//! assert_eq!(found.shape, scene.main().shape);
//! assert!(found.agreement(&scene).background);
//! ```

pub mod judge;
pub mod palette;
pub mod scene;
pub mod subject;

mod attributes;
mod caption;
mod render;

pub use caption::{caption, full_caption, judged_caption, main_caption, vocabulary};
pub use judge::{Agreement, Judgement, judge};
pub use render::{render, render_many};
pub use scene::{Background, Color, Fill, Object, Place, Scene, Shape, Size, Split, Style};
pub use subject::{Subject, SubjectScene};
