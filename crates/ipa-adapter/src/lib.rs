//! ipa-adapter
