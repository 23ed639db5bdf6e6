// The chat page: one HTML document without references to anything outside, made of src/serve/page/ when the program is built.
//
// Layer: serve. Thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "serve/http_server.h"

namespace retort::serve {

extern const std::string_view kChatPage;  // in a source that cmake/embed_page.cmake writes

// A Content-Security-Policy for a page with one inline script and one inline style: only these run, named by their hashes, and the page
// may talk to nobody but the server that it came from.
std::string page_policy(std::string_view page);

void answer_page(HttpReply& reply);

}  // namespace retort::serve
