"""Input selectors and templates over a context of JSON values. (contract; sessions F and G complete it)"""
