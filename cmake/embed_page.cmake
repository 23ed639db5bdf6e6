# Joins the chat page's parts into one document, inside a C++ source:
#
#   cmake -DFOLDER=src/serve/page -DOUT=chat_page.cc -P cmake/embed_page.cmake
#
# chat.html has @STYLE@ and @SCRIPT@; the scripts become one module, in the order of this list.
set(scripts markdown.js conversation_file.js server.js slot.js settings.js view.js chat.js)
file(READ "${FOLDER}/chat.html" page)
file(READ "${FOLDER}/chat.css" style)
set(script "")
foreach(name ${scripts})
  file(READ "${FOLDER}/${name}" text)
  string(APPEND script "${text}")
endforeach()
string(REPLACE "@STYLE@" "\n${style}" page "${page}")
string(REPLACE "@SCRIPT@" "\n${script}" page "${page}")
# Indents and comments are for those who read the parts.
string(REGEX REPLACE "\n *(//[^\n]*)?" "\n" page "${page}")
string(REGEX REPLACE "\n\n+" "\n" page "${page}")
string(FIND "${page}" ")chat_page\"" taken)
if(NOT taken EQUAL -1)
  message(FATAL_ERROR "the page has the characters that end a raw string here")
endif()
file(WRITE "${OUT}" "// Made of src/serve/page/ by cmake/embed_page.cmake.\n#include \"serve/page.h\"\n\nnamespace retort::serve {\n\n"
  "extern constexpr std::string_view kChatPage = R\"chat_page(" "${page}" ")chat_page\";\n\n}  // namespace retort::serve\n")
