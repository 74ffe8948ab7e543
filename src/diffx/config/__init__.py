"""From words to checked settings: composing, checking, objects of a _target_, protocols."""
