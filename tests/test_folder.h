// Folders for the files of tests.
#ifndef LODE_TEST_FOLDER_H
#define LODE_TEST_FOLDER_H

#define TEST_FOLDER_SIZE 64

// Makes an empty folder in /tmp, or in `parent`, and writes its path into `out`; fails the test where it
// cannot.
void test_folder_make(char out[TEST_FOLDER_SIZE], const char *parent);

// Removes it with all that is in it, and fails the test where something stays.
void test_folder_remove(const char *folder);

#endif
