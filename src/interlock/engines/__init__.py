"""One engine per way of locking, all behind the same verbs (`interlock._model.Engine`)."""
