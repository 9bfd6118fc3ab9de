//! A sheet of small pictures.

use base64::{Engine, engine::general_purpose::STANDARD};
use maud::{Markup, html};

/// A picture of a sheet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contact {
    /// What it is called.
    pub title: String,
    /// The picture; `None` if there is none to show.
    pub thumbnail: Option<Thumbnail>,
    /// Its caption; may be empty.
    pub caption: String,
    /// What is remarked on it.
    pub flags: Vec<Flag>,
}

/// A remark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// In a few words.
    pub text: String,
    /// Whether something is wrong, not only worth a look.
    pub is_fault: bool,
}

/// A small picture as a JPEG file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    /// The file.
    pub jpeg: Vec<u8>,
    /// Its width in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
}

pub(super) fn sheet(contacts: &[Contact]) -> Markup {
    html! {
        div.contacts {
            @for contact in contacts { (card(contact)) }
        }
    }
}

fn card(Contact { title, thumbnail, caption, flags }: &Contact) -> Markup {
    html! {
        article.card.contact {
            div.frame {
                @match thumbnail {
                    Some(Thumbnail { jpeg, width, height }) => {
                        img alt=(title) width=(width) height=(height)
                            src={ "data:image/jpeg;base64," (STANDARD.encode(jpeg)) };
                    },
                    None => span.none { "no picture" },
                }
            }
            h3 { (title) }
            @if !caption.is_empty() { p.prompt { (caption) } }
            @if !flags.is_empty() {
                ul.flags {
                    @for flag in flags { li class=(if flag.is_fault { "poor" } else { "weak" }) { (flag.text) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_shows_picture_caption_and_flags() {
        let thumbnail = Thumbnail { jpeg: vec![1, 2, 3], width: 30, height: 20 };
        let flag = |text: &str, is_fault| Flag { text: text.to_owned(), is_fault };
        let contact = Contact {
            title: "a.png".to_owned(),
            thumbnail: Some(thumbnail),
            caption: "a cat".to_owned(),
            flags: vec![flag("small picture", false), flag("broken file", true)],
        };
        let html = sheet(&[contact.clone(), Contact { thumbnail: None, ..contact }]).into_string();
        for (shown, times) in [
            ("alt=\"a.png\" width=\"30\" height=\"20\" src=\"data:image/jpeg;base64,AQID\"", 1),
            ("<li class=\"weak\">small picture</li><li class=\"poor\">broken file</li>", 2),
            ("a cat", 2),
            ("no picture", 1),
        ] {
            assert_eq!(html.matches(shown).count(), times, "{shown} in {html}");
        }
    }
}
